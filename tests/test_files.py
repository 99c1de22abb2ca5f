"""Files that are whole or not there, JSON that is JSON, and hashes of content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from workbench.errors import ArtifactError, OutputError
from workbench.files import atomically, digest, plain, read_arrays, read_json, write_arrays, write_json, write_text


class Interrupted(BaseException):
    """As a KeyboardInterrupt would come."""


def test_text_and_json_there_and_back(tmp_path):
    assert write_text(tmp_path / "a" / "b.txt", "µ\n").read_text(encoding="utf-8") == "µ\n"
    value = {"a": [1, 2.5, None, True, "µ"], "b": {"c": []}}
    assert read_json(write_json(tmp_path / "a.json", value)) == value
    assert os.listdir(tmp_path / "a") == ["b.txt"], "nothing else is left behind"


def test_empty_text_is_written(tmp_path):
    assert write_text(tmp_path / "empty", "").read_text() == ""


@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = write_text(tmp_path / "file", "old")

    def half(place):
        place.write_text("ne")
        raise error

    with pytest.raises(error):
        atomically(path, half)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]
    with pytest.raises(error):
        atomically(tmp_path / "new", half)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("file write failed: errno = 28, error message = 'No space left on device'"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("Unable to write: errno = 27, error message = 'File too large'"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["plain", "h5py", "a limit", "a limit, h5py", "safetensors"],
)
def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path, error):
    path = write_text(tmp_path / "file", "old")

    def half(place):
        place.write_text("ne")
        raise error

    with pytest.raises(OutputError, match="The disk is full: '.*file' cannot be written. Make room"):
        atomically(path, half)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path):
    host, gone = platform.node(), subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = [f".a.b.{host}-{gone.pid}-x_1.part", f".a.b.{host}-{gone.pid}-y.part"]
    kept = [
        f".a.b.{host}-{os.getpid()}-x.part",  # a thread of this process
        f".a.b.another-host-{gone.pid}-x.part",
        f".a.{host}-{gone.pid}-x.part",  # of another file
        ".a.b.x.part",
        "b.part",
    ]
    for name in (*old, *kept):
        (tmp_path / name).write_text("ha")
    write_text(tmp_path / "a.b", "whole")
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a.b"])
    write_text(tmp_path / "a", "whole")
    assert f".a.{host}-{gone.pid}-x.part" not in os.listdir(tmp_path)


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = write_text(tmp_path / "file", "old")

    def look(place):
        assert place != path and place.parent == path.parent
        place.write_text("ne")
        assert path.read_text() == "old"
        place.write_text("new")

    atomically(path, look)
    assert path.read_text() == "new"


def test_values_that_are_no_json_leave_the_old_file(tmp_path):
    path = write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == 1


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(OutputError, match="file/folder' cannot be written .*choose another output folder"):
        write_text(tmp_path / "file" / "folder" / "a.txt", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "a.txt", "")
    tmp_path.chmod(0o700)


def test_arrays_there_and_back(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "b": np.array([1, -2], dtype=np.int64),
        "c": np.array([True, False]),
        "d": np.zeros((0, 3)),
        "e/f": np.array(2.5),
    }
    found, metadata = read_arrays(write_arrays(tmp_path / "x.safetensors", arrays, {"k": "v"}))
    assert metadata == {"k": "v"} and set(found) == set(arrays)
    for name, array in arrays.items():
        assert (
            found[name].dtype == array.dtype and np.array_equal(found[name], array) and found[name].shape == array.shape
        )


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_truncated_arrays_are_refused(tmp_path, share):
    path = write_arrays(tmp_path / "x.safetensors", {"a": np.arange(1000.0)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(
        ArtifactError, match="x.safetensors' is missing, truncated or no safetensors file .*make it again"
    ):
        read_arrays(path)


@pytest.mark.parametrize("content", [b"text", bytes(100), b"\xff" * 100, b"\x10" + bytes(7) + b"{" * 16])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="no safetensors file"):
        read_arrays(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="x.safetensors' is missing"):
        read_arrays(tmp_path / "x.safetensors")
    with pytest.raises(ArtifactError, match="x.json' cannot be read as JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_corrupt_json_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ArtifactError, match="x.json' cannot be read as JSON .*make it again"):
        read_json(tmp_path / "x.json")


def test_plain_values():
    value = {
        1: np.float32(0.5),
        "nan": [float("nan"), np.nan, np.float64("inf"), -np.inf],
        "array": np.array([[1, 2], [3, 4]], dtype=np.int32),
        "with nan": np.array([1.0, np.nan]),
        "flag": np.bool_(True),
        "path": Path("a/b"),
        "tuple": (1, "x", None),
        "set": {3},
    }
    assert plain(value) == {
        "1": 0.5,
        "nan": [None] * 4,
        "array": [[1, 2], [3, 4]],
        "with nan": [1.0, None],
        "flag": True,
        "path": "a/b",
        "tuple": [1, "x", None],
        "set": [3],
    }
    assert plain(value)["flag"] is True and isinstance(plain(np.int64(3)), int)


def test_written_json_holds_null_for_nan(tmp_path):
    text = write_json(tmp_path / "a.json", {"loss": float("nan")}).read_text()
    assert "NaN" not in text and json.loads(text) == {"loss": None}


def test_digests_follow_content_types_and_boundaries():
    array = np.arange(6.0)
    first = digest({"a": 1, "b": [1.5, None]}, array)
    assert len(first) == 32 and int(first, 16) >= 0
    assert first == digest({"b": (1.5, None), "a": np.int64(1)}, array.copy())
    assert digest(np.asfortranarray(array.reshape(2, 3))) == digest(array.reshape(2, 3))
    different = [
        digest({"a": 1, "b": [1.5, None]}, array + 0.1),
        digest({"a": 1, "b": [1.5, 0]}, array),
        digest({"a": 1, "b": [1.5, None]}, array.reshape(2, 3)),
        digest({"a": 1, "b": [1.5, None]}, array.astype(np.float32)),
        digest(array, {"a": 1, "b": [1.5, None]}),
        digest({"a": 1, "b": [1.5, None]}),
    ]
    assert len({first, *different}) == 7
    assert digest("ab", "c") != digest("a", "bc")
    assert digest([1, 2], [3]) != digest([1], [2, 3])


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.array(3), np.zeros((0, 4)), np.array(["a", "bcd"]), np.array([True, False])],
    ids=["turned", "scalar", "empty", "text", "truth"],
)
def test_digests_of_arrays_are_those_of_their_bytes(array):
    out = hashlib.blake2b(digest_size=16)
    out.update(f"\n{array.dtype}{array.shape}\n".encode() + array.tobytes())
    assert digest(array) == out.hexdigest()


def test_a_digest_takes_no_copy_of_an_array():
    array = np.zeros(2**22)
    digest(array)
    tracemalloc.start()
    digest(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 100


def test_digests_are_the_same_on_every_machine():
    expected = hashlib.blake2b(digest_size=16)
    expected.update(b'\n{"a": 1}\n')
    assert digest({"a": 1}) == expected.hexdigest()


def test_the_same_arrays_and_strings_are_the_same_bytes(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.arange(3)}
    strings = {"hash": "0f", "about": '{"done": 3, "é": "\\n\\u001f\\u007f"}', "zéro": "", "more": "x" * 9}
    written = set()
    for i in range(12):
        path = write_arrays(tmp_path / f"{i}.safetensors", arrays, dict(sorted(strings.items(), reverse=bool(i % 2))))
        written.add(path.read_bytes())
        found, kept = read_arrays(path)
        assert kept == strings and all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert len(written) == 1
