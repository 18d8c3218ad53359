"""What two machines do that share a store and an MLflow server, in processes of their own.

Each process prints JSON lines.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
from pathlib import Path

from mlops.registry import Registry, ensure_service, open_registry, reconcile, register
from mlops.registry import registration as registration_module
from mlops.registry.connection import key_file, load
from mlops.store import list_versions

from .crash import SERVICE, candidate, dataset, why


def opened(home: str, store_url: str, tracking_uri: str) -> Registry:
    # The interpreter may lie where another user cannot start a clean process from.
    registration_module._verify = lambda *_: None
    return open_registry(
        base_path=Path(home), store_url=store_url, tracking_uri=tracking_uri, experiment="shared"
    )


def register_first(home: str, store_url: str, tracking_uri: str) -> None:
    """Begin the service, register a challenger and load both."""
    registry = opened(home, store_url, tracking_uri)
    ensure_service(registry, SERVICE, dataset(), why())
    challenger = register(registry, candidate(), why())
    say(registered=challenger.model_id, loaded=load_all(registry))
    registry.store.close()


def register_on_both(first: str, second: str, store_url: str, tracking_uri: str) -> None:
    """Register on one machine, then load and register on another one, as another user.

    One process is both, because another user may not be allowed to import: the interpreter may
    lie in a private home. The folder of the first machine is moved away before the second begins.
    """
    register_first(first, store_url, tracking_uri)
    copy_key(Path(first), Path(second))
    Path(first).rename(f"{first}.away")
    become_another_user(Path(second))
    registry = opened(second, store_url, tracking_uri)
    loaded = load_all(registry)
    mine = register(registry, candidate(), why())
    say(second=mine.model_id, loaded=loaded, repaired=reconcile(registry).changes)


def load_all(registry: Registry) -> list[str]:
    """Load every version and let it reproduce its golden examples."""
    rows = list_versions(registry.store)
    for row in rows:
        load(registry, row.model_id).check_examples()
    return [row.model_id for row in rows]


def copy_key(source: Path, target: Path) -> None:
    """Copy the signing key as the pages say."""
    key_file(target).parent.mkdir(parents=True)
    shutil.copy(key_file(source), key_file(target))


def register_often(home: str, store_url: str, tracking_uri: str, times: int) -> None:
    """Register one version after the other, and say which; each must load afterwards."""
    registry = opened(home, store_url, tracking_uri)
    rows = [register(registry, candidate(), why()) for _ in range(times)]
    for row in rows:
        load(registry, row.model_id)
    say(registered=[row.model_id for row in rows])


def repair_until(home: str, store_url: str, tracking_uri: str, done: str) -> None:
    """Repair in a loop until a file is there; says what was changed."""
    registry, changes = opened(home, store_url, tracking_uri), []
    while not Path(done).exists():
        changes += reconcile(registry).changes
    say(repaired=changes)


def become_another_user(home: Path) -> None:
    """Give a folder to another user and become that user, where this one is root."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        for path in (home, *home.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        os.environ["HOME"] = str(home)


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)
