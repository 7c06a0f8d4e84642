"""The store of results: whatever ends a run, the next one goes on."""

import json
from pathlib import Path

import pytest

from radio_core.processes import Processes
from radio_eval.results import Records, read_result, write_result

IDENTITY = {"model": "toy", "limit": None, "size": (2, 3)}


def number(record: dict[str, int]) -> int:
    return record["n"]


def test_records_survive_the_end_of_a_process_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with Records(path, IDENTITY) as records:
        records.append({"n": 2}, {"n": 1})
        records.append({"n": 0})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        kept = whole[:size].count(b"\n")
        with Records(path, IDENTITY) as again:
            assert [record["n"] for record in again.found] == [2, 1, 0][:kept]
            again.append(*({"n": n} for n in (2, 1, 0)[kept:]))
            assert again.merge(number) == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "all.jsonl",
            "all.jsonl.identity.json",
        ]


def test_parts_of_other_processes_are_read_and_merged(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    first, second = Records(path, IDENTITY), Records(path, IDENTITY)
    second._processes = Processes(1, 2)
    first.append({"n": 1, "by": 0})
    second.append({"n": 0, "by": 1}, {"n": 1, "by": 1})
    second.close()
    assert (tmp_path / "all.jsonl.part-1").is_file()
    assert len(Records(path, IDENTITY).found) == 3
    assert first.merge(number) == [{"n": 0, "by": 1}, {"n": 1, "by": 1}]
    assert not (tmp_path / "all.jsonl.part-1").exists()


def test_another_identity_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    with Records(path, IDENTITY) as records:
        records.append({"n": 1})
    other = {**IDENTITY, "limit": 5}
    with pytest.raises(ValueError, match=r"another run \(limit: None, now 5\).*--overwrite"):
        Records(path, other)
    (tmp_path / "unrelated.jsonl").touch()
    assert Records(path, other, overwrite=True).found == []
    assert not path.exists()
    assert (tmp_path / "unrelated.jsonl").exists()
    path.write_text('{"n": 1}\n')
    (tmp_path / "all.jsonl.identity.json").unlink()
    with pytest.raises(ValueError, match=r"there is no readable all\.jsonl\.identity\.json"):
        Records(path, other)


@pytest.mark.parametrize("line", ["{", "[]", '{"m": 1}', "[" * 100_000])
def test_damaged_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "all.jsonl"
    with Records(path, IDENTITY) as records:
        records.append({"n": 1})
    path.write_text(f'{{"n": 1}}\n{line}\n{{"n": 2}}\n')
    with pytest.raises(ValueError, match=r"all\.jsonl: line 2 is damaged.*--overwrite"):
        Records(path, IDENTITY, check=number)


def test_a_finished_result_is_found_for_the_same_identity_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cell.json"
    assert read_result(path, IDENTITY) is None
    write_result(path, IDENTITY, {"value": 1.5})
    assert read_result(path, IDENTITY) == {"value": 1.5}
    assert read_result(path, {**IDENTITY, "model": "other"}) is None
    path.write_text(json.dumps([1]))
    assert read_result(path, IDENTITY) is None
