"""The package as a whole: public names, docstrings, and which modules import which."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import avaturn_async
from avaturn_async import webhooks

ROOT = Path(avaturn_async.__file__).parent
PUBLIC = {
    "avaturn_async": """
        AssetSlot AssetSlots AuthenticationError Avatar AvaturnClient AvaturnConnectionError
        AvaturnDecodeError AvaturnError AvaturnStatusError AvaturnTimeoutError BadRequestError
        BodyType BoneScale BrowserExport BrowserExportError accept_browser_export wait_for_new_avatar ClientClosedError ConflictError Create CreateOrEditExisting
        Customization EditExisting Export GoneError NewAvatar NotFoundError
        PermissionDeniedError PollPolicy RateLimitError Render RenderFormat
        RequestValidationError RetryPolicy RouterClosedError ScanStatus ServerError Session
        SessionConfig StoreError StoreFullError TaskFailedError TaskStatus TransferError
        UnknownSessionError User WebhookError WebhookPayloadError WebhookRejected __version__
        create_avatar export_avatar wait_for_avatar wait_for_export wait_for_render
    """,
    "avaturn_async.webhooks": """
        AccessLogFilter AllOf AnyOf AvatarReady BasicAuth ConfirmByApi Event EventStore ExportReady FailedEvent HmacSha256
        MemoryStore PostgresStore RedisStore RenderReady RoutedSession RouterClosedError SQLiteStore
        SessionRouter SharedSecret StandardWebhooks UnknownEvent UnknownSessionError Unverified
        Verifier WebhookPayloadError WebhookReceiver WebhookRejected WebhookReply WebhookRequest
        event_body parse_event
    """,
    "avaturn_async.testing": """
        ASSETS BODIES NO_RETRIES SLACK_LIKE SVIX_LIKE Asset Body Delivery PlannedFault FakeAvaturn
        Fault FormFile RecordedRequest VirtualTime WebhookFault
    """,
    "avaturn_async.testing.fixtures": "avaturn_client fake_avaturn serve_app webhook_verifier",
}
SOURCES = sorted(ROOT.rglob("*.py"))


def get_imports(path: Path) -> set[str]:
    """Return the modules that a file imports when it is loaded, not in functions or for types."""
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If | ast.Try) and "TYPE_CHECKING" not in ast.dump(node):
            todo += node.body
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_these_and_exist(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name].split())
    for public in module.__all__:
        assert getattr(module, public) is not None


def is_docstring(statement: ast.stmt | None) -> bool:
    """Return whether a statement is a text, which documents the assignment before it."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def find_documented_assignments() -> set[str]:
    """Return the names that a module assigns and documents in the next line, as documentation tools read it."""
    found: set[str] = set()
    for path in SOURCES:
        body = ast.parse(path.read_text()).body
        for statement, after in itertools.pairwise(body):
            if is_docstring(after) and isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                found |= {ast.unparse(target) for target in targets}
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_and_member_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    documented, missing = find_documented_assignments(), list[str]()
    for public in module.__all__:
        value = getattr(module, public)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            # A fixture is an object with the docstring of its function.
            if public not in documented and value.__doc__ in {None, type(value).__doc__}:
                missing.append(public)
            continue
        members = vars(value).items() if inspect.isclass(value) else ()
        named = [(public, value), *((f"{public}.{k}", v) for k, v in members if not k.startswith("_"))]
        missing += [
            label
            for label, member in named
            if (inspect.isfunction(member) or inspect.isclass(member) or isinstance(member, property))
            and not member.__doc__
        ]
    assert missing == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_each_field_of_a_public_model_has_a_docstring(path: Path) -> None:
    """Attrs keeps none at run time: read the source."""
    public = {name for module in PUBLIC for name in importlib.import_module(module).__all__}
    missing: list[str] = []
    for node in ast.parse(path.read_text()).body:
        frozen = isinstance(node, ast.ClassDef) and any("frozen" in ast.dump(d) for d in node.decorator_list)
        if isinstance(node, ast.ClassDef) and frozen and node.name in public:
            missing += [
                f"{node.name}.{ast.unparse(statement.target)}"
                for statement, after in itertools.zip_longest(node.body, node.body[1:])
                if isinstance(statement, ast.AnnAssign)
                and not ast.unparse(statement.target).startswith("_")
                and not is_docstring(after)
            ]
    assert missing == []


def load(code: str) -> set[str]:
    """Return the modules that are loaded after some code in a new interpreter."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_of_the_client_side_loads_no_webhooks_web_server_or_extra() -> None:
    new = load("import avaturn_async") - load("import aiohttp")
    extras = {"redis", "rich", "pytest", "sqlite3"}
    unwanted = {"aiohttp.web", "avaturn_async.transfers.session", "avaturn_async.webhooks", *extras}
    assert not unwanted & new
    assert len([name for name in new if not name.startswith("avaturn_async")]) <= 40


def test_import_of_the_webhooks_loads_no_web_server_and_no_store_but_that_in_memory() -> None:
    loaded = load("import avaturn_async.webhooks")
    assert not {"sqlite3", "redis", "asyncpg", "aiohttp.web", "avaturn_async.webhooks.aiohttp_adapter"} & loaded


def test_stores_are_loaded_on_first_use_and_other_names_are_attribute_errors() -> None:
    for name in ("SQLiteStore", "RedisStore", "PostgresStore"):
        assert getattr(webhooks, name).__name__ == name
    assert set(webhooks.__all__) <= set(dir(webhooks))
    with pytest.raises(AttributeError, match="has no attribute 'Missing'"):
        _ = webhooks.Missing


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    imported = get_imports(path)
    layer = path.relative_to(ROOT).parts[0]
    if layer not in {"webhooks", "testing", "__main__.py", "cli"}:
        assert not [name for name in imported if name.startswith(("avaturn_async.webhooks", "avaturn_async.testing"))]
    if layer == "webhooks":
        assert not [name for name in imported if name.startswith("avaturn_async.testing")]


@pytest.mark.parametrize("name", ["request", "verification", "events", "router"])
def test_sans_io_module_imports_nothing_of_aiohttp(name: str) -> None:
    path = ROOT / "webhooks" / f"{name}.py"
    assert not [m for m in get_imports(path) if m.split(".")[0] == "aiohttp"]


def test_library_has_no_assert() -> None:
    for path in SOURCES:
        if "testing" not in path.parts:
            tree = ast.parse(path.read_text())
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], path


def test_models_are_frozen_with_slots_and_keyword_only() -> None:
    for name in avaturn_async.__all__:
        thing = getattr(avaturn_async, name)
        if inspect.isclass(thing) and attrs.has(thing):
            assert "__slots__" in vars(thing), name
            assert all(a.kw_only for a in attrs.fields(thing)), name
            assert thing.__setattr__ is not object.__setattr__, name
