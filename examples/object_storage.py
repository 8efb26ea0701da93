"""Copy the export of an avatar to object storage without a temporary file.

Run object_storage.py AVATAR_ID PUT_URL with AVATURN_API_TOKEN set.

PUT_URL is a presigned PUT URL, as S3 and compatible stores give it. The GLB is streamed from Avaturn to the store in
chunks, so that the program never holds the whole file. Prints the number of bytes.
"""

import asyncio
import sys

import aiohttp

from avaturn_async import AvaturnClient, wait_for_export


async def main(avatar_id: str, put_url: str) -> None:
    async with AvaturnClient.from_env() as client, aiohttp.ClientSession() as storage:
        export = await wait_for_export(client, avatar_id, timeout=600)
        assert export.url is not None  # wait_for_export returns a ready export only
        async with client.open_download(export.url) as download:
            headers = {"Content-Type": "model/gltf-binary"}
            if download.length is not None:  # S3 takes no body without a length
                headers["Content-Length"] = str(download.length)
            async with storage.put(put_url, data=aiter(download), headers=headers) as response:
                response.raise_for_status()
        print("stored", download.length, "bytes")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [avatar_id, put_url]:
            asyncio.run(main(avatar_id, put_url))
        case _:
            sys.exit(__doc__)
