"""Other people's machines: names, homes, locales and variables of the environment that ours does not have."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cli, commands
from bench.jobs.job import absolute
from bench.records import Accuracy, Throughput, append, load_run
from tests.bench.stored import trained
from tests.conftest import PATIENCE_S
from training.config import TrainConfig
from training.terminal import expand_paths, open_console, printable

ROOT = Path(__file__).parents[2]
ODD_NAMES = ("runs[old]", "x[/y]", "[bold]<b>&amp;", ":smile:", "long " * 20 + "name", "caf\udce9")
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


def run(*command: str, variables: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, *command], env=environment, cwd=cwd, capture_output=True, timeout=PATIENCE_S, check=False
    )


def stored_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    append(folder, trained("throughput", dataset="photos[web]", data="caf\udce9"))
    return folder


# ---- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_printed_verbatim_and_whole(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stored_run(tmp_path / name)
    cli.main(["report", str(folder)])
    out = capsys.readouterr().out
    assert out.splitlines()[0] == f"report: {printable(str(folder))}/report/index.html"
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "photos[web]" in page
    with pytest.raises(SystemExit):
        cli.main(["compare", str(folder), str(tmp_path / "nowhere" / name)])
    assert printable(str(tmp_path / "nowhere" / name)) in capsys.readouterr().err


def test_names_come_back_from_records_escaped(tmp_path: Path) -> None:
    (record,) = load_run(stored_run(tmp_path / "caf\udce9")).of(Throughput)
    assert (record.data, load_run(tmp_path / "caf\udce9").name) == ("caf\\udce9", "caf\\udce9")
    assert TrainConfig(data="/photos/caf\udce9").as_record()["data"] == "caf\\udce9"


def test_nobody_parses_markup() -> None:
    texts = {path: path.read_text(encoding="utf-8") for name in ("bench", "training") for path in (ROOT / name).rglob("*.py")}
    markup = re.compile(r"f?\"\[(bold|red|green|yellow|dim)[a-z ]*\]")
    assert [path.name for path, text in texts.items() if markup.search(text)] == []


def test_the_console_neither_wraps_nor_reads_markup(capsys: pytest.CaptureFixture[str]) -> None:
    line = "x[/y] [bold]b[/bold] :smile: " + "path/" * 60
    open_console().print(line)
    assert capsys.readouterr().out == f"{line}\n"


@pytest.mark.parametrize("variables", [ASCII, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8:strict"}])
def test_help_and_report_in_any_locale(variables: dict[str, str], tmp_path: Path) -> None:
    folder = stored_run(tmp_path / "caf\udce9 ±")
    for command in (["report", str(folder)], ["--help"], ["export", str(folder)]):
        done = run("-m", "bench.cli", *command, variables=variables)
        assert (done.returncode, done.stderr) == (0, b""), command


# ---- paths ------------------------------------------------------------------------------------------------------------


def test_a_home_means_the_same_in_every_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    compare = expand_paths(commands.Compare(a=Path("~/a"), b=Path("b~")))
    assert (compare.a, compare.b) == (tmp_path / "a", Path("b~"))
    train = expand_paths(commands.Train(config=TrainConfig(data="~/photos", data_root=Path("~/d")), results=Path("~/o")))
    assert (train.config.data, train.config.data_root, train.results) == (f"{tmp_path}/photos", tmp_path / "d", tmp_path / "o")
    assert expand_paths(commands.Report(runs=(Path("~/a"), Path("x")))).runs == (tmp_path / "a", Path("x"))
    with pytest.raises(ValueError, match="cannot resolve ~nobody-here/x"):
        expand_paths(commands.Gallery(out=Path("~nobody-here/x")))


def test_names_of_data_sets_come_before_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic").mkdir()
    (tmp_path / "photos").mkdir()
    assert (absolute("synthetic"), absolute("./synthetic")) == ("synthetic", str(tmp_path / "synthetic"))
    assert absolute("photos") == str(tmp_path / "photos")


def test_benchmarks_resolve_a_home_too(tmp_path: Path) -> None:
    code = (
        "import pytest\nfrom bench import plugin\n"
        "parser = pytest.Parser(_ispytest=True)\nplugin.pytest_addoption(parser)\n"
        "print(*vars(parser.parse(['--data=~/p', '--results=~/r', '--data-root=~/d'])).values())"
    )
    out = run("-c", code, variables={"HOME": str(tmp_path)}).stdout.decode()
    assert all(f"{tmp_path}/{name}" in out for name in "prd")


# ---- variables of the environment, and places ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_wheel_runs_outside_the_repository(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("needs uv to build a wheel")
    subprocess.run(["uv", "build", "--wheel", "-q", "-o", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site, cwd = tmp_path / "site", tmp_path / "elsewhere"
    install = ["uv", "pip", "install", "-q", "--python", sys.executable, "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    (cwd / "bench").mkdir(parents=True)  # a stranger's folder of the same name
    (cwd / "bench" / "__init__.py").touch()
    (cwd / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    variables = {"PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    options = ["--data", "synthetic", "--backends", "torchvision", "--recipes", "flip", "--rounds", "1"]
    done = run("-m", "bench", "run", "--preset", "smoke", *options, "--results", "../run[/x]", variables=variables, cwd=cwd)
    assert done.returncode == 0, done.stderr
    measured = load_run(tmp_path / "run[/x]")
    assert {case.kind for case in measured.cases() if case.status == "ok"} == {"speed", "throughput", "feed", "accuracy"}
    assert {record.recipe for record in (*measured.of(Throughput), *measured.of(Accuracy))} == {"none", "flip"}
    assert "flip" in (tmp_path / "run[/x]" / "report" / "report.md").read_text()
    command = ["-m", "pytest", "-c", os.devnull, "--rootdir", ".", "-p", "bench.plugin", "--pyargs", "bench"]
    grid = ["--benchmark-only", "--ops", "Invert", "--backends", "torchvision", "--rounds", "1", "--data", "synthetic"]
    done = run(*command, *grid, "--results=../grid", variables=variables, cwd=cwd)
    assert done.returncode == 0, done.stdout
