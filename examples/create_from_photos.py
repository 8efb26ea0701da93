"""Makes an avatar from three photos: create_from_photos.py FRONTAL SIDE_1 SIDE_2 (male | female)."""

import asyncio
import sys

from avaturn_async import AvaturnClient, Customization, create_avatar
from avaturn_async.progress import progress_bar


async def main(frontal: str, side_1: str, side_2: str, body_type: str) -> None:
    async with AvaturnClient.from_env() as client:
        user = await client.create_user()
        print("user:", user.id)
        with progress_bar("photos") as on_progress:
            avatar = await create_avatar(
                client,
                user.id,
                frontal=frontal,
                side_1=side_1,
                side_2=side_2,
                body_type=body_type,
                # An avatar made from photos can be exported only after a customization was set.
                customization=Customization(body="body_0"),
                timeout=900,
                on_progress=on_progress,
            )
        print("avatar:", avatar.id, avatar.status)


if __name__ == "__main__":
    match sys.argv[1:]:
        case [frontal, side_1, side_2, "male" | "female" as body_type]:
            asyncio.run(main(frontal, side_1, side_2, body_type))
        case _:
            sys.exit(__doc__)
