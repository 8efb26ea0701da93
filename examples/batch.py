"""Make avatars of many people.

Run batch.py PEOPLE.csv OUT with AVATURN_API_TOKEN set.

PEOPLE.csv has the columns name, body_type, frontal, side_1, side_2; the last three are paths of photos, relative to the
file. OUT gets NAME.glb for each person, and NAME.user with the id of the Avaturn user. The program can be killed at any
moment and started again: it makes no avatar twice, but failed ones anew. At the end it prints who failed and why.
"""

import asyncio
import csv
import sys
from pathlib import Path
from typing import Any

from avaturn_async import AvaturnClient, AvaturnError, Customization, ScanStatus, create_avatar, export_avatar
from avaturn_async.progress import progress_bars


async def get_user_id(client: AvaturnClient, path: Path) -> str:
    """Return the user of a person. Each person has an own user, so the user's list of avatars tells what exists."""
    if not path.exists():
        path.with_suffix(".partial").write_text((await client.create_user()).id)
        path.with_suffix(".partial").rename(path)  # atomic: a killed program leaves a whole file or none
    return path.read_text()


async def make_glb(client: AvaturnClient, person: dict[str, str], folder: Path, out: Path, new_bar: Any) -> None:
    name, glb = person["name"], out / f"{person['name']}.glb"
    if glb.exists():
        return
    user_id = await get_user_id(client, out / f"{name}.user")
    avatars = await client.list_user_avatars(user_id, include_not_ready=True)
    # Pending: killed before the photos arrived; the upload URL is lost. Failed: made again, perhaps of other photos.
    useless = [avatar for avatar in avatars if avatar.status in (ScanStatus.PENDING, ScanStatus.FAILED)]
    for avatar in useless:
        await client.delete_user_avatar(user_id, avatar.id)
    existing = [avatar.id for avatar in avatars if avatar not in useless]
    avatar = await create_avatar(
        client,
        user_id,
        frontal=folder / person["frontal"],
        side_1=folder / person["side_1"],
        side_2=folder / person["side_2"],
        body_type=person["body_type"],
        customization=Customization(body="body_0"),
        avatar_id=existing[0] if existing else None,
        timeout=1800,
        on_progress=new_bar(f"{name}: photos"),
    )
    await export_avatar(client, avatar.id, glb, timeout=1800, on_progress=new_bar(glb.name))


async def main(table: Path, out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    with table.open(newline="") as file:
        people = list(csv.DictReader(file))
    failures: dict[str, Exception] = {}
    slots = asyncio.Semaphore(16)  # people at a time

    async def run(person: dict[str, str], new_bar: Any) -> None:
        async with slots:
            try:
                await make_glb(client, person, table.parent, out, new_bar)
            except (AvaturnError, ValueError, OSError) as error:
                failures[person["name"]] = error

    async with AvaturnClient.from_env(max_concurrency=8) as client:
        with progress_bars() as new_bar:
            await asyncio.gather(*(run(person, new_bar) for person in people))
    for name, error in failures.items():
        print(f"{name}: {error} (avatar {getattr(error, 'avatar_id', None)})")
    print(f"{len(people) - len(failures)} of {len(people)} people have a GLB in {out}")
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:  # noqa: PLR2004 - PEOPLE.csv and OUT
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]))))
