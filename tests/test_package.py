"""The package as a whole: its public names, its docstrings, and which layer may see which."""

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

ROOT = Path(avaturn_async.__file__).parent
PUBLIC = {
    "avaturn_async": """
        AssetSlot AssetSlots AuthenticationError Avatar AvaturnClient AvaturnConnectionError
        AvaturnDecodeError AvaturnError AvaturnStatusError AvaturnTimeoutError BadRequestError
        BodyType BoneScale ClientClosedError ConflictError Create CreateOrEditExisting
        Customization EditExisting Export GoneError NewAvatar NotFoundError
        PermissionDeniedError PollPolicy RateLimitError Render RenderFormat
        RequestValidationError RetryPolicy RouterClosedError ScanStatus ServerError Session
        SessionConfig StoreError StoreFullError TaskFailedError TaskStatus TransferError
        UnknownSessionError User WebhookError WebhookPayloadError WebhookRejected __version__
        create_avatar export_avatar wait_for_avatar wait_for_export wait_for_render
    """,
    "avaturn_async.webhooks": """
        AllOf AnyOf AvatarReady BasicAuth ConfirmByApi Event EventStore ExportReady HmacSha256
        MemoryStore RedisStore RenderReady RoutedSession RouterClosedError SQLiteStore
        SessionRouter SharedSecret StandardWebhooks UnknownEvent UnknownSessionError Unverified
        Verifier WebhookPayloadError WebhookReceiver WebhookRejected WebhookReply WebhookRequest
        event_body parse_event
    """,
    "avaturn_async.testing": """
        ASSETS BODIES NO_RETRIES SLACK_LIKE SVIX_LIKE Asset Body Delivery Failing FakeAvaturn
        Fault FormFile RecordedRequest VirtualTime WebhookFault
    """,
    "avaturn_async.testing.fixtures": "avaturn_client fake_avaturn serve_app webhook_verifier",
    "avaturn_async.testing.stores": "EventStoreContract",
}
SOURCES = sorted(ROOT.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports when it is loaded (not in functions or for types)."""
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
def test_the_public_names_are_these_and_are_there(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(PUBLIC[name].split())
    for public in module.__all__:
        assert getattr(module, public) is not None


def told_at_assignment() -> set[str]:
    """Names that a module assigns and says something about in the next line, as documentation tools read it."""
    told: set[str] = set()
    for path in SOURCES:
        body = ast.parse(path.read_text()).body
        for statement, after in itertools.pairwise(body):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if said and isinstance(statement, ast.Assign | ast.AnnAssign):
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                told |= {ast.unparse(target) for target in targets}
    return told


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    told, silent = told_at_assignment(), list[str]()
    for public in module.__all__:
        thing = getattr(module, public)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            # A fixture is an object with the docstring of its function.
            if public not in told and thing.__doc__ in {None, type(thing).__doc__}:
                silent.append(public)
            continue
        members = vars(thing).items() if inspect.isclass(thing) else ()
        named = [(public, thing), *((f"{public}.{k}", v) for k, v in members if not k.startswith("_"))]
        for label, member in named:
            function = inspect.isfunction(member) or inspect.isclass(member) or isinstance(member, property)
            if function and not member.__doc__:
                silent.append(label)
    assert silent == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_field_of_a_public_model_has_a_docstring(path: Path) -> None:
    """Attrs keeps none at run time: look at the source."""
    public = {name for module in PUBLIC for name in importlib.import_module(module).__all__}
    silent: list[str] = []
    for node in ast.parse(path.read_text()).body:
        frozen = isinstance(node, ast.ClassDef) and any("frozen" in ast.dump(d) for d in node.decorator_list)
        if not isinstance(node, ast.ClassDef) or not frozen or node.name not in public:
            continue
        following = [*node.body[1:], None]
        for statement, after in zip(node.body, following, strict=True):
            if isinstance(statement, ast.AnnAssign) and not ast.unparse(statement.target).startswith("_"):
                said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                if not said:
                    silent.append(f"{node.name}.{ast.unparse(statement.target)}")
    assert silent == []


def test_loading_the_client_side_loads_neither_webhooks_nor_a_web_server_nor_extras() -> None:
    code = "import sys, avaturn_async; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    unwanted = (
        "avaturn_async.webhooks",
        "avaturn_async.testing",
        "aiohttp.web",
        "redis",
        "rich",
        "pytest",
        "sqlite3",
    )
    assert not [name for name in loaded for u in unwanted if name == u or name.startswith(u + ".")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_run_one_way(path: Path) -> None:
    imported = imports_of(path)
    layer = path.relative_to(ROOT).parts[0]
    if layer not in {"webhooks", "testing", "__main__.py", "_cli"}:
        assert not [
            name for name in imported if name.startswith(("avaturn_async.webhooks", "avaturn_async.testing"))
        ]
    if layer == "webhooks":
        assert not [name for name in imported if name.startswith("avaturn_async.testing")]


@pytest.mark.parametrize("name", ["request", "verification", "events", "router"])
def test_the_sans_io_files_import_nothing_of_aiohttp(name: str) -> None:
    path = ROOT / "webhooks" / f"{name}.py"
    assert not [m for m in imports_of(path) if m.split(".")[0] == "aiohttp"]


def test_the_library_has_no_assert_on_data() -> None:
    for path in SOURCES:
        if "testing" not in path.parts:
            tree = ast.parse(path.read_text())
            assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], path


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_asks_to_be_two(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 320
    functions = [
        n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for function in functions:
        lines = (function.end_lineno or 0) - function.lineno + 1
        lines -= len((ast.get_docstring(function) or "").splitlines())
        assert lines <= 45, function.name


def test_models_are_frozen_with_slots_and_keywords_only() -> None:
    for name in avaturn_async.__all__:
        thing = getattr(avaturn_async, name)
        if inspect.isclass(thing) and attrs.has(thing):
            assert "__slots__" in vars(thing), name
            assert all(a.kw_only for a in attrs.fields(thing)), name
            assert thing.__setattr__ is not object.__setattr__, name
