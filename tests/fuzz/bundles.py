"""Mutated bundles: none loads with changed contents, and each error is a `BundleError`.

The mutants are made in memory from a sound bundle, written to a folder and opened as a replica
opens them: checked, loaded, and its golden examples forecast. Some are signed again with the
installation's key after the mutation; of these only the kind of error is judged.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from mlops.errors import BundleError
from mlops.models import manifest
from mlops.models.bundle import Trust, open_bundle
from mlops.models.manifest import Format, make_manifest
from mlops.models.signing import SigningKey
from tests.fuzz.mutations import Mutator, json_bytes

Files = dict[str, bytes]
_TEXTS = (manifest.MANIFEST, manifest.SIGNATURE, manifest.CONFIG, manifest.CONFIG)
_TENSORS = (manifest.WEIGHTS, manifest.GOLDEN, manifest.REFERENCE)
_WORDS = (
    "schema_version", "format", "files", "digest", "signature", "algorithm", "model", "recipe",
    "members", "features", "params", "sequence_length", "calendar", "service", "spread",
    "class_path", *_TENSORS,
)  # fmt: skip


@dataclass
class BundleResults:
    """What became of the mutants; ``findings`` says what must not be."""

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def fuzz_bundles(
    originals: Sequence[Path],
    key: SigningKey,
    folder: Path,
    *,
    seed: int,
    numbers: range,
    modules: tuple[str, ...] = (),
) -> BundleResults:
    """Open mutants of sound bundles.

    Args:
        originals: Signed bundles.
        folder: Where the mutants are written, one after the other.
        numbers: Which mutants of this seed; each depends on seed and number only.
        modules: Modules whose custom models load.
    """
    results = BundleResults()
    sound = [
        {path.name: path.read_bytes() for path in original.iterdir()} for original in originals
    ]
    trust = Trust(key, modules, allow_signed_pickle=True)
    for number in numbers:
        random = Random(f"{seed}:bundle:{number}")
        files = random.choice(sound)
        mutant = mutate_bundle(Mutator(random), files)
        signed = random.random() < 0.4
        write_files(mutant, folder, key if signed else None)
        outcome = open_mutant(folder, trust, None if signed else files)
        results.outcomes[outcome] += 1
        if not outcome.startswith(("refused", "loaded")):
            results.findings.append(f"bundle {number}: {outcome}")
    return results


def open_mutant(folder: Path, trust: Trust, original: Mapping[str, bytes] | None) -> str:
    """Open a bundle as a replica does, and say what came of it.

    Args:
        original: The files that were signed; None for a bundle that was signed again.
    """
    try:
        bundle = open_bundle(folder, trust)
        bundle.check_examples()
        bundle.tensors(manifest.REFERENCE)
    except BundleError:
        return "refused" if original is not None else "refused, signed again"
    except Exception as error:
        return f"{type(error).__name__} instead of BundleError: {str(error)[:200]}"
    if original is None:
        return "loaded, signed again"
    changed = [
        name for name in bundle.manifest.files if original.get(name) != (folder / name).read_bytes()
    ]
    return f"changed {', '.join(changed)} loaded" if changed else "loaded, contents unchanged"


def mutate_bundle(mutator: Mutator, files: Mapping[str, bytes]) -> Files:
    """One to three changes of a bundle's files."""
    mutant = dict(files)
    for _ in range(mutator.random.choice((1, 1, 2, 3))):
        name = mutator.random.choice([name for name in mutant if mutant[name]] or list(files))
        match mutator.random.randrange(10):
            case 0:
                _change_listing(mutator, mutant, name)
            case 1 | 2 | 3 | 4:
                name = mutator.random.choice([name for name in _TEXTS if name in mutant] or [name])
                mutant[name] = _mutate_text(mutator, mutant.get(name, b""))
            case 5 | 6 | 7:
                name = mutator.random.choice([n for n in _TENSORS if n in mutant] or [name])
                mutant[name] = mutate_tensors(mutator, mutant.get(name, b""))
            case _:
                mutant[name] = mutator.mutate_bytes(mutant.get(name, b""), list(files.values()))
    return mutant


def _change_listing(mutator: Mutator, mutant: Files, name: str) -> None:
    other = mutator.random.choice(list(mutant))
    match mutator.random.randrange(4):
        case 0:
            mutant.pop(name, None)
        case 1:
            mutant[name] = b""
        case 2:
            mutant["stray.bin"] = mutator.random.randbytes(10)
        case _:
            mutant[name], mutant[other] = mutant[other], mutant.get(name, b"")


def _mutate_text(mutator: Mutator, text: bytes) -> bytes:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return mutator.mutate_bytes(text)
    match mutator.random.randrange(8):
        case 0:
            return mutator.mutate_bytes(text)
        case 1 | 2:
            return mutator.mutate_numbers(text)
        case 3:
            return b"[" * 100_000
        case 4:
            return json.dumps(document, indent=mutator.random.randrange(5)).encode()
        case _:
            return json_bytes(mutator.mutate_json(document, _WORDS))


def mutate_tensors(mutator: Mutator, content: bytes) -> bytes:
    """A safetensors file with another header, other data, or a header of another length."""
    try:
        length = struct.unpack("<Q", content[:8])[0]
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    except (struct.error, ValueError, OverflowError, RecursionError):
        return mutator.mutate_bytes(content)
    match mutator.random.randrange(4):
        case 0:
            return content[:8] + content[8 : 8 + length] + mutator.mutate_bytes(data)
        case 1:
            size = mutator.random.choice((0, 1, length - 1, length + 1, 2**32, 2**63, 2**64 - 1))
            return struct.pack("<Q", size) + content[8:]
        case _:
            changed = json_bytes(mutator.mutate_json(header, ("dtype", "shape", "data_offsets")))
            return struct.pack("<Q", len(changed)) + changed + data


def write_files(files: Mapping[str, bytes], folder: Path, key: SigningKey | None) -> None:
    """Write a bundle's files, in place of those that are there.

    Args:
        key: Signs them anew where the files that a manifest names are all there.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if key is None:
        return
    form = Format.SIGNED_PICKLE if manifest.PICKLE in files else Format.TENSORS
    try:
        made = make_manifest(folder, form)
    except FileNotFoundError:
        return
    (folder / manifest.MANIFEST).write_text(made.to_json(), encoding="utf-8")
    key.write(folder, made.digest)
