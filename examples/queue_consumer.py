"""Feed webhooks that a queue holds to the receiver, one by one.

A web server that only stores requests, such as an API gateway in front of a queue, puts each webhook into the queue:
method, headers, query and body. The consumer removes a message when the receiver has replied; a reply of 503 means
"try again later". Run queue_consumer.py: it makes a queue with one webhook and prints the event.
"""

import asyncio

from avaturn_async import AvaturnClient
from avaturn_async.testing import FakeAvaturn
from avaturn_async.webhooks import AvatarReady, SessionRouter, SharedSecret, WebhookReceiver, WebhookRequest

SECRET = SharedSecret("a-long-random-secret", header="X-Avaturn-Secret")


async def consume(queue: asyncio.Queue[WebhookRequest], receiver: WebhookReceiver) -> None:
    while True:
        request = await queue.get()
        reply = await receiver.receive(request)
        if reply.status == 503:  # noqa: PLR2004 - busy, or the store is unavailable: the message stays
            await asyncio.sleep(5)
            await queue.put(request)
        queue.task_done()


async def main() -> None:
    queue: asyncio.Queue[WebhookRequest] = asyncio.Queue()
    async with (
        FakeAvaturn() as fake,
        AvaturnClient("any-token", base_url=fake.url) as client,
        SessionRouter() as router,
    ):
        receiver = WebhookReceiver(router, verifier=SECRET)
        consumer = asyncio.create_task(consume(queue, receiver))
        session = await router.open_session(client, (await client.create_user()).id)
        avatar_id = await fake.finish_session(session.id)
        body = f'{{"event": "avatar.ready", "avatar_id": "{avatar_id}", "session_id": "{session.id}"}}'.encode()
        await queue.put(WebhookRequest(method="POST", headers=SECRET.sign(body), body=body))
        event = await session.wait_for(AvatarReady, timeout=60)
        print("from the queue:", event.event, event.avatar_id)
        consumer.cancel()


if __name__ == "__main__":
    asyncio.run(main())
