"""What the README says to type exists, and what it points to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import FAULTS, _parser, main
from pipelines.sandbox import faults

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))]
COMMANDS = set(_parser()._subparsers._group_actions[0].choices)


def fenced(text):
    return [line for block in re.findall(r"```\w*\n(.*?)```", text, re.S) for line in block.splitlines()]


def test_every_command_in_the_readme_exists_with_its_options(capsys):
    named = set()
    for line in fenced(README):
        if not re.match(r"aef\s", line):
            continue
        words = re.split(r"\s{2,}|#", line.removeprefix("aef").strip())
        command = words[0] + " " + (words[1] if words[1:] and words[1].startswith("-") else "")
        for alternative in command.split("|"):
            name = alternative.split()[0]
            if name in ("serve",):  # aef sandbox build | serve
                continue
            assert name in COMMANDS, line
            named.add(name)
            with pytest.raises(SystemExit):
                main([name, "--help"])
            usage = capsys.readouterr().out
            for option in re.findall(r"--[a-z][a-z-]*", alternative):
                assert option in usage, line
    assert named == COMMANDS


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_in_the_readme_run_and_print_what_they_say(example, capsys):
    promised = re.findall(r"^print\(.*\)  # (torch\.Size\(.*?\))", example, re.M)
    assert len(promised) == len(re.findall(r"\bprint\(", example)) > 0
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == promised


def test_the_readme_shows_the_model_with_several_sources_and_periods():
    (example,) = EXAMPLES
    assert {"sentinel2", "landsat"} <= set(re.findall(r'"(\w+)": torch', example)) and ".summarise(" in example


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.M))
    wanted = {line.split()[1] for line in fenced(README) if line.startswith("make ")}
    assert {"run", "test"} <= wanted <= targets


def test_the_configurations_in_the_readme_are_those_there_are():
    named = set(re.findall(r"^\| `configs/(\w+)\.yaml`", README, re.M))
    assert named == {path.stem for path in (PROJECT / "configs").glob("*.yaml")}
    for name in set(re.findall(r"configs/(\w+)\.yaml", README)) - {"my_region"}:
        assert (PROJECT / f"configs/{name}.yaml").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_and_named_folders_lead_somewhere(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: link to {target}"
    for folder in re.findall(r"`((?:pipelines|aef_model|cluster|configs|tests|docs)/[\w/.]*)`", text):
        assert (PROJECT / folder).exists(), f"{page.name}: {folder}"


def headings(page):
    """Of a page outside its fenced blocks, below the title: the address within the page, and the words."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    found = re.findall(r"^##+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-"): words for words in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_to_headings_lead_to_one(page):
    for target in re.findall(r"\]\(([^)\s]*#[^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            path, anchor = target.split("#")
            assert anchor in headings(page.parent / path if path else page), f"{page.name}: link to {target}"


def test_the_decisions_begin_with_their_contents():
    page = PROJECT / "docs/decisions.md"
    contents = re.findall(r"^ *\* \[(.+)\]\(#(.+)\)", page.read_text().split("\n## ")[0], re.M)
    assert [(anchor, words) for words, anchor in contents] == list(headings(page).items())


def test_help_is_quick_and_needs_neither_ray_nor_torch():
    script = "import sys; from pipelines.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"^ {2,4}(\w+) {2,}\S", done.stdout, re.M)
    assert sorted(lines) == sorted(COMMANDS)  # each on one line, once
    stages = ["plan", "ingest", "train", "embed", "evaluate"]
    assert [name for name in lines if name in stages] == stages
    assert "example" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("plan", ("published since", "catalogs, which must answer")),
        ("embed", ("reads the plan under the root and asks no catalog", "KEY is dotted, VALUE is YAML")),
        ("submit", ("aef submit run --config", "--job-id my-region", "RAY_AUTH_MODE")),
    ],
)
def test_the_help_of_a_command_explains_its_options(command, words, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for part in words:
        assert part in text


def parsers(parser, name="aef"):
    """Every command and sub-command with its full name."""
    for group in parser._subparsers._group_actions if parser._subparsers else []:
        for word, inner in group.choices.items():
            yield f"{name} {word}", inner
            yield from parsers(inner, f"{name} {word}")


@pytest.mark.parametrize(
    ("name", "parser"), [pytest.param(name, parser, id=name) for name, parser in parsers(_parser())]
)
def test_each_commands_help_says_what_it_does_and_each_option_what_it_is_for(name, parser):
    assert len(parser.description.split()) > 5
    for action in parser._actions:
        if action.option_strings or action.choices:
            assert action.help or action.dest == "action", f"{name} {action.option_strings or action.dest}"


def test_sub_commands_are_looked_at_too():
    assert {"aef sandbox build", "aef sandbox serve", "aef run"} <= {name for name, _ in parsers(_parser())}


def test_the_faults_that_the_help_lists_are_those_that_the_server_knows():
    assert FAULTS == tuple(faults._DEFAULTS)
