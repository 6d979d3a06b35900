"""Two configurations are compared seed by seed."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/compare_seeds.py"


def run_script(*arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return end.value.code


def write_table(path, **ious):
    path.write_text("class,iou,dice\n" + "".join(f"{name},{iou},0\n" for name, iou in ious.items()))
    return path


def test_differences_are_those_of_the_seeds_with_their_interval(tmp_path, monkeypatch, capsys):
    first = [write_table(tmp_path / f"f{i}.csv", road=0.9, car=0.5 + i / 100) for i in range(3)]
    second = [write_table(tmp_path / f"s{i}.csv", road=0.9, car=0.5 + i / 50) for i in range(3)]
    picture = tmp_path / "a.png"
    arguments = "--first", *first, "--second", *second, "--out", picture
    assert run_script(*arguments, "--labels", "small", "large", monkeypatch=monkeypatch) in (None, 0)
    head, _, road, car, mean, _ = capsys.readouterr().out.splitlines()
    assert "small | large" in head and road == "| road | 90.0 | 90.0 | +0.0 ± 0.0 |"
    # Differences of 0, 1 and 2 points: deviation 1, Student's t of two degrees of freedom 4.303.
    assert car == "| car | 51.0 | 52.0 | +1.0 ± 2.5 |" and mean == "| mean | 70.5 | 71.0 | +0.5 ± 1.2 |"
    assert picture.read_bytes()[1:4] == b"PNG"

    other = write_table(tmp_path / "other.csv", road=0.9, bus=0.1)
    (tmp_path / "none.csv").write_text("name\nroad\n")
    for tables, message in (
        ([first[0]], "found 1 and 3"),
        ([*first[:2], other], "other classes than in the first table"),
        ([*first[:2], tmp_path / "none.csv"], "expected the results.csv of seg.eval"),
        ([*first[:2], tmp_path / "missing.csv"], "missing.csv: No such file"),
    ):
        assert run_script("--first", *tables, "--second", *second, monkeypatch=monkeypatch) == 2
        assert message in capsys.readouterr().err
