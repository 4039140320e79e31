"""`serve_config.yaml` as a whole, read before Ray is started.

The file is Ray Serve's (`ServeDeploySchema`); Serve checks its own keys. Here is read what concerns
Switchboard: the address, our application's `args`, and the `user_config` of its deployment `Registry`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.config.address import is_loopback, url_of
from serve.config.change import changed
from serve.config.faults import Fault, Loc, lines
from serve.config.live import LiveSettings
from serve.config.load import Examined, examine
from serve.config.settings import Settings
from serve.config.yaml_file import read_yaml
from serve.errors import ConfigError

IMPORT_PATH = "serve.app:build"
LIVE_DEPLOYMENT = "Registry"

# Ray's own defaults (`HTTPOptionsSchema`): without `http_options`, Serve listens everywhere.
DEFAULT_HOST = "0.0.0.0"
DEFAULT_PORT = 8000

FROM_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Every address of this machine, to one of them."""

_NO_REFERENCE = "takes no ${NAME}: only args and a user_config do"


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """The address that clients connect to."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        return url_of(FROM_HERE.get(self.host, self.host), self.port)


def load_file(
    path: Path | str,
    *,
    env: Mapping[str, str] = os.environ,
    root: Path | None = None,
    check_paths: bool = True,
) -> tuple[Settings, HttpBinding]:
    """The settings in force, `user_config` included, and the address to listen on.

    Raises `ConfigError` with every fault of the file, or with the line where it is not YAML. `env`, `root`
    and `check_paths` are those of `load_args`.
    """
    path = Path(path)
    file = read_yaml(path)
    faults: list[Fault] = []
    binding = _binding(file, faults)
    application, loc = _application(file, faults)
    if application is None:
        raise ConfigError(path.name, lines(faults))
    found = examine(application.get("args") or {}, env=env, root=root, check_paths=check_paths)
    live = _live(application, loc, found, env, faults)
    faults += found.faults
    if found.keyless and not is_loopback(binding.host):
        message = f"{binding.host!r} is open to others and auth.keys is empty: anybody could call"
        faults.append(Fault(("http_options", "host"), message))
    if found.settings is None or live is None or faults:
        raise ConfigError(path.name, lines(faults))
    return found.settings.with_live_settings(live), binding


def _binding(file: Any, faults: list[Fault]) -> HttpBinding:
    options = file.get("http_options") if isinstance(file, dict) else None
    options = {} if options is None else options
    if not isinstance(options, dict):
        faults.append(Fault(("http_options",), "should be a mapping"))
        options = {}
    host, port = options.get("host", DEFAULT_HOST), options.get("port", DEFAULT_PORT)
    if not isinstance(host, str) or not host or _is_reference(host):
        faults.append(Fault(("http_options", "host"), _NO_REFERENCE if _is_reference(host) else "should be text"))
        host = "localhost"  # who is let in by what should be there, nobody knows
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65_536:
        wanted = "should be a whole number from 1 to 65535"
        faults.append(Fault(("http_options", "port"), _NO_REFERENCE if _is_reference(port) else wanted))
        port = DEFAULT_PORT
    return HttpBinding(host, port)


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _application(file: Any, faults: list[Fault]) -> tuple[dict[str, Any] | None, Loc]:
    """Our application among those of the file, and its place; None where there is not one."""
    applications = file.get("applications") if isinstance(file, dict) else None
    entries = list(enumerate(applications)) if isinstance(applications, list) else []
    ours = [(i, entry) for i, entry in entries if isinstance(entry, dict) and entry.get("import_path") == IMPORT_PATH]
    if len(ours) == 1:
        place, application = ours[0]
        return application, ("applications", place)
    count = "more than one" if ours else "none"
    message = f"exactly one application must have the import_path {IMPORT_PATH}; there is {count}"
    faults.append(Fault(("applications",), message))
    return None, ("applications",)


def _live(
    application: dict[str, Any], loc: Loc, found: Examined, env: Mapping[str, str], faults: list[Fault]
) -> LiveSettings | None:
    """What the `user_config` of our `Registry` makes of the settings."""
    deployments = application.get("deployments") or []
    if not isinstance(deployments, list):
        faults.append(Fault((*loc, "deployments"), "should be a list"))
        return None
    user_config: Any = None
    its_loc = loc
    for place, deployment in enumerate(deployments):
        if isinstance(deployment, dict) and deployment.get("name") == LIVE_DEPLOYMENT:
            user_config = deployment.get("user_config")
            its_loc = (*loc, "deployments", place, "user_config")
    live, wrong = changed(found.draft, user_config, env)
    faults += [fault.under(*its_loc) for fault in wrong]
    return live
