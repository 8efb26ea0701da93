"""Changes the body of an avatar and keeps everything else: customize_avatar.py AVATAR_ID BODY."""

import asyncio
import sys

import attrs

from avaturn_async import AvaturnClient, ConflictError, GoneError


async def main(avatar_id: str, body: str) -> None:
    async with AvaturnClient.from_env() as client:
        before = await client.get_customization(avatar_id)
        after = attrs.evolve(before, body=body)
        try:
            await client.set_customization(avatar_id, after)
        except ConflictError as error:
            print("an asset is in a slot that it does not belong to:", error.body)
        except GoneError as error:
            print("assets that are gone:", error.body)
        else:
            print(f"body: {before.body} -> {after.body}; everything else as it was")


if __name__ == "__main__":
    match sys.argv[1:]:
        case [avatar_id, body]:
            asyncio.run(main(avatar_id, body))
        case _:
            sys.exit(__doc__)
