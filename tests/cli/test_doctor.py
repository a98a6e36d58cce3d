import io
import json
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from huggingface_hub import constants
from rich.console import Console

from ditcache_rl.cli import doctor, main
from ditcache_rl.cli.doctor import Diagnosis
from ditcache_rl.config import shipped as layout

ROOT = Path(__file__).resolve().parents[2]


def test_a_sound_installation_has_no_fault(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status = main(["doctor", "--dir", str(tmp_path), "--json", str(tmp_path / "found.json")])

    out = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert status == 0, out
    assert "everything that is needed is there" in out
    assert {one["part"] for one in found} == {"machine", "software", "extras", "policies"}
    assert {one["state"] for one in found} <= {"ok", "note"}
    named = {one["name"]: one for one in found}
    assert named["torch"]["found"].startswith(metadata.version("torch"))
    assert "network + deadlines" in named["shapes-ppo"]["found"]
    assert "MB/s" in named[f"disk of {tmp_path}"]["found"]
    assert all(one["name"] in out for one in found if len(one["name"]) < 30)


def test_what_is_needed_and_missing_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "safetensors":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)

    found = {one.name: one for one in doctor.examine(tmp_path)}

    assert found["safetensors"].state == "fault"
    assert found["safetensors"].advice.startswith("pip install 'safetensors")
    assert not {"GPU", "shapes-ppo"} & found.keys(), "what follows would import it"


def test_other_versions_missing_extras_and_damaged_policies_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "torchao":
            raise metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "diffusers" else real(name)

    (tmp_path / "_shipped" / "policies" / "broken").mkdir(parents=True)
    (tmp_path / "_shipped" / "policies" / "broken" / "manifest.json").write_text("{")
    (tmp_path / "_shipped" / "constraints.txt").write_text("# of tests\ndiffusers==0.42.1\n")
    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(layout, "_PACKAGE", tmp_path)

    found = {one.name: one for one in doctor.examine(tmp_path / "nowhere")}

    assert found["diffusers"].found == "0.0.1, tested with 0.42.1"
    assert found["diffusers"].state == "note"
    assert found["quantize"].advice == "pip install 'ditcache-rl[quantize]'"
    assert found["broken"].state == "fault"
    assert found[f"disk of {tmp_path / 'nowhere'}"].state == "note"


def test_what_is_found_is_shown_as_it_is() -> None:
    advice, found = "pip install 'ditcache-rl[serve]'", "manifest.json: received [/]"
    console = Console(width=160, file=io.StringIO())
    console.print(doctor._table([Diagnosis("extras", "serve", found, "note", advice)]))

    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert advice in shown
    assert found in shown


def test_policies_of_the_hub_are_looked_at_where_they_lie(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot = tmp_path / "models--someone--stars" / "snapshots" / ("0" * 40)
    shutil.copytree(ROOT / "policies" / "shapes-ppo", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("ditcache_rl.config.shipped.download_policy", None)  # would fail

    found = {one.name: one for one in doctor._policies()}

    assert found["someone/stars"] == replace(found["shapes-ppo"], name="someone/stars")


def test_a_broken_policy_of_the_hub_is_a_fault_beside_those_that_are_sound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for broken in ("sound", "damaged", "lost", "cut", "other"):
        snapshot = tmp_path / f"models--someone--{broken}" / "snapshots" / ("0" * 40)
        shutil.copytree(ROOT / "policies" / "shapes-ppo", snapshot)
        tensors = snapshot / "controller.safetensors"
        if broken == "damaged":
            tensors.write_bytes(b"nothing of the kind")
        elif broken in ("lost", "cut", "other"):
            tensors.unlink()
        if broken == "lost":
            tensors.symlink_to(tmp_path / "blobs" / "gone")
        elif broken == "other":
            (snapshot / "metrics.json").unlink()
            (snapshot / "pacer.safetensors").unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))

    found = {one.name: one for one in doctor._policies()}

    states = {name: found[f"someone/{name}"].state for name in ("sound", "damaged", "lost", "cut")}
    assert states == {"sound": "ok", "damaged": "fault", "lost": "fault", "cut": "fault"}
    assert "expected a file, found none" in found["someone/lost"].found
    assert found["someone/cut"].advice == "delete it from the cache, load it again"
    assert "someone/other" not in found, "one file of that name makes no policy"


def test_a_part_that_cannot_be_looked_at_is_a_fault_and_the_others_follow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreadable() -> dict[str, Path]:
        raise PermissionError(13, "Permission denied")

    def broken(source: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(doctor, "_machine", unreadable)
    monkeypatch.setattr("ditcache_rl.policy.load_policy", broken)
    found = {one.name: one for one in doctor.examine(tmp_path)}

    assert found["machine"].state == found["shapes-ppo"].state == "fault"
    assert "Permission denied" in found["machine"].found
    assert found["shapes-ppo"].found == "MemoryError: no room"
    assert "serve" in found


def test_tested_versions_are_those_of_the_constraints() -> None:
    known = layout.tested_versions()

    assert f"torch=={known['torch']}" in (ROOT / "constraints.txt").read_text()
    assert all(version[0].isdigit() for version in known.values())
