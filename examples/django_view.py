"""Receive Avaturn's webhooks in a Django project, under ASGI: django_view.py runs it with uvicorn on port 8080.

Set AVATURN_WEBHOOK_SECRET and register https://your.host/avaturn?key=SECRET at Avaturn. In your project, take over
``avaturn_webhook`` and its path. The router opens at the first webhook; it belongs to the server's event loop. With
several workers give the router a store that they share.
"""

import os

import django
import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from avaturn_async.webhooks import (
    AvatarReady,
    RoutedSession,
    SessionRouter,
    SharedSecret,
    WebhookReceiver,
    WebhookRequest,
)

router = SessionRouter()
secret = SharedSecret(os.environ["AVATURN_WEBHOOK_SECRET"], query="key")
receiver = WebhookReceiver(router, verifier=secret)


@router.on(AvatarReady, name="save-avatar")
async def save_avatar(event: AvatarReady, session: RoutedSession | None) -> None:
    print("avatar", event.avatar_id, "of", session and session.context, flush=True)


@csrf_exempt  # the verifier authenticates the sender
async def avaturn_webhook(request: HttpRequest) -> HttpResponse:
    reply = await receiver.receive(
        WebhookRequest(
            method=request.method or "",
            headers=request.headers,  # a mapping of text
            query=request.META.get("QUERY_STRING", ""),
            body=request.body,
            peer=request.META.get("REMOTE_ADDR", ""),
        )
    )
    return HttpResponse(status=reply.status, headers=dict(reply.headers))


urlpatterns = [path("avaturn", avaturn_webhook)]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=os.urandom(16).hex(), ALLOWED_HOSTS=["*"])
django.setup()
application = get_asgi_application()

if __name__ == "__main__":
    uvicorn.run(application, host="127.0.0.1", port=8080)
