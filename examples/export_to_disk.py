"""Exports every avatar of a user to a folder, a few at a time: export_to_disk.py USER_ID FOLDER."""

import asyncio
import sys
from pathlib import Path

from avaturn_async import AvaturnClient, AvaturnError, export_avatar


async def main(user_id: str, folder: Path) -> None:
    at_once = asyncio.Semaphore(4)

    async def export(avatar_id: str) -> None:
        async with at_once:
            try:
                path = await export_avatar(client, avatar_id, folder / f"{avatar_id}.glb", timeout=600)
            except AvaturnError as error:
                print(f"{avatar_id}: {error}")
            else:
                print(f"{avatar_id}: {path} ({path.stat().st_size:,} bytes)")

    async with AvaturnClient.from_env() as client:
        avatars = await client.list_user_avatars(user_id)
        print(len(avatars), "avatars are ready")
        async with asyncio.TaskGroup() as group:
            for avatar in avatars:
                group.create_task(export(str(avatar.id)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case [user_id, folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            asyncio.run(main(user_id, Path(folder)))
        case _:
            sys.exit(__doc__)
