"""Plans: which runs a table needs, where they belong, which rows share them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

from late_phase.command_line.commands import evaluation, sweeps, training
from late_phase.command_line.overrides import PARSER, as_in_sweeps
from late_phase.command_line.plan import Plan, collected, refuse_mixture, summary
from late_phase.command_line.planner import Planner
from late_phase.reporting.table_config import Column, Row, Table, read_table, seeds_of
from late_phase.reporting.tables import notes
from late_phase.runs.provenance import code_digest
from late_phase.support.errors import UserError

CONFIGS = ROOT / "configs"
ACCURACY = {"accuracy": Column("test accuracy (%)", "test_accuracy", factor=100)}


def a_table(*rows: Row, columns: dict[str, Column] = ACCURACY) -> Table:
    return Table("A table", "Mine", [0, 1], columns=columns, rows=list(rows))


def test_overrides_of_all_rows_are_left_out_where_they_change_nothing(tmp_path):
    rows = Row("Base", "cifar10_lenet_base"), Row("Late", "cifar10_lenet_lpbn")
    planner = Planner(CONFIGS, tmp_path, "digits", ["late_phase.sigma0=0.3", "batch_size=16"], seeds=[0])
    planned = planner.plan([a_table(*rows)])[0]
    (base,), (late,) = planned.rows["Base"], planned.rows["Late"]
    assert base.overrides == ("+experiment=cifar10_lenet_base", "+scale=digits", "batch_size=16")
    assert late.overrides == ("+experiment=cifar10_lenet_lpbn", "+scale=digits", "late_phase.sigma0=0.3", "batch_size=16")
    with pytest.raises(UserError, match=r"late_phase\.sigma0=0\.3 has no effect with late_phase=none: leave it out"):
        planner.plan([a_table(Row("Base", "cifar10_lenet_base", ["late_phase.sigma0=0.3"]))])


def finish(planned: Plan, code: str | None = None) -> None:
    """Makes files of finished runs, as far as a plan looks at them."""
    for job in planned.jobs:
        if not job.directory.exists():
            job.directory.mkdir(parents=True)
            variant, experiment = (folder.name for folder in job.directory.parents[:2])
            record = {"config_hash": job.expected, "seed": job.seed, "experiment": experiment, "variant": variant}
            record |= {"device": "cpu", "git_commit": None, "seconds": 1.0, "metrics": {"single": {"test_accuracy": 0.5}}}
            (job.directory / "metrics.json").write_text(json.dumps(record | ({} if code is None else {"code": code})))
            (job.directory / "config.yaml").touch()


@pytest.fixture(autouse=True)
def configs_are_as_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files above are no whole configs: the hash that they would have is in the record."""
    from late_phase.command_line import plan

    def recorded(path: Path) -> str:
        return json.loads((path.parent / "metrics.json").read_text())["config_hash"]

    monkeypatch.setattr(plan, "from_yaml", lambda path: path)
    monkeypatch.setattr(plan, "config_hash", recorded)


def test_rows_of_one_config_share_runs_whatever_their_names(tmp_path):
    """At a small scale CIFAR-10 and CIFAR-100 are the same images; only weight decays of late-phase weights differ."""
    base, other = Row("Base", "cifar10_wrn_base"), Row("Base 100", "cifar100_wrn_base")
    late, late_100 = Row("Late", "cifar10_wrn_lpbn"), Row("Late 100", "cifar100_wrn_lpbn")
    planner = Planner(CONFIGS, tmp_path, "digits", seeds=[0, 1])
    planned = planner.plan([a_table(base, other, late, late_100)])[0]
    assert planned.rows["Base"] == planned.rows["Base 100"] and len(planned.jobs) == 6
    assert planned.folders["Base 100"] == tmp_path / "cifar10_wrn_base" / "scale=digits"
    many = Row("Ten", "cifar100_wrn_base", seeds_at={"digits": [0, 1, 2, 3]})
    few, more = Planner(CONFIGS, tmp_path, "digits").plan([a_table(base), a_table(many)])  # of two tables
    assert set(few.jobs) < set(more.jobs) and more.folders["Ten"] == tmp_path / "cifar100_wrn_base" / "scale=digits"
    finish(planned)
    later = Planner(CONFIGS, tmp_path, "digits", seeds=[0, 1]).plan([a_table(other)])[0]  # another day
    assert set(later.jobs.values()) == {"done"} and later.folders["Base 100"] == planned.folders["Base"]
    more = Planner(CONFIGS, tmp_path, "digits", seeds=[0, 1, 2]).plan([a_table(other)])[0]
    assert set(more.jobs.values()) == {"missing"}, "not all of its seeds are there"
    at_paper = Planner(CONFIGS, tmp_path, seeds=[0]).plan([a_table(base, other)])[0]
    assert len(at_paper.jobs) == 2


def test_a_run_that_begins_from_another_is_planned_behind_it(tmp_path):
    row = Row("Late", "cifar100_wrn_pretrained_lpbn", ["late_phase.sigma0=0"], begins_from="cifar100_wrn_base")
    planned = Planner(CONFIGS, tmp_path, "digits", seeds=[3]).plan([a_table(row)])[0]
    first, second = planned.jobs
    assert first.directory == tmp_path / "cifar100_wrn_base" / "scale=digits" / "seed=3"
    assert second.overrides[-1] == f"architecture.weights='{first.directory.parent}/seed=${{seed}}'"
    assert planned.rows["Late"] == [second] and "starting weights: +experiment=cifar100_wrn_base" in summary(planned)
    (one, other) = training(planned, [], tmp_path)
    assert "+experiment=cifar100_wrn_base" in one and "+experiment=cifar100_wrn_pretrained_lpbn" in other
    (table9,) = Planner(CONFIGS, ROOT / "outputs").plan([read_table(CONFIGS / "table" / "table9.yaml")])
    swept = [command[command.index("~hydra.callbacks.summary") + 1 :] for command in training(table9, [], ROOT / "outputs")]
    assert swept[0] == ["+experiment=cifar100_wrn_base", "seed=0,1,2,3,4"], "no sweep has runs and what they begin from"
    assert swept[1][0].startswith("+experiment=cifar100_wrn_pretrained_base,") and len(swept) == 2
    inside = Planner(CONFIGS, ROOT / "outputs", seeds=[3]).plan([a_table(row)])[0]
    assert list(inside.jobs)[1].overrides == ("+experiment=cifar100_wrn_pretrained_lpbn", "late_phase.sigma0=0"), "its file says it"


def test_what_a_scale_lacks_is_said(tmp_path):
    rows = (Row("Wide", "cifar10_wrn14_base", needs="WRN 28-14"), Row("Few", "cifar10_wrn_base", needs="few", met_at=["digits"]))
    planner = Planner(CONFIGS, tmp_path, "digits", seeds=[0])
    planned = planner.plan([a_table(*rows)])[0]
    assert planned.without == {"Wide": "it needs WRN 28-14, which +scale=digits replaces"}
    assert not Planner(CONFIGS, tmp_path, seeds=[0]).plan([a_table(*rows)])[0].without


def test_what_images_of_ones_own_lack_is_said_and_not_tried(tmp_path):
    columns = ACCURACY | {"ood": Column("OOD AUROC", "auroc", "ood"), "mce": Column("mCE", "mce", "corruption")}
    table = a_table(Row("Base", "cifar10_lenet_base"), columns=columns)
    own = ["dataset=image_folder", "dataset.root=somewhere"]
    of_own = {"ood": "no usual out-of-distribution images", "corruption": "no corrupted images"}
    for of_images, lacking in (
        ((), {}),
        (own, of_own),
    ):
        planned = Planner(CONFIGS, tmp_path, own_data={"images": of_images}, seeds=[0]).plan([table])[0]
        assert planned.impossible["Base"] == {suite: f"dataset=image_folder has {what}" for suite, what in lacking.items()}
        finish(planned)
        commands = evaluation(table, planned.now(), [])
        assert {command[-1] for command in commands} == {"suite=ood", "suite=corruption"} - {f"suite={s}" for s in lacking}
    texts = Table("Texts", "Mine", [0], columns=ACCURACY, rows=[Row("Base", "enwik8_lstm_base")], scales={"digits": "pydocs"})
    assert Planner(CONFIGS, tmp_path, "digits", own_data={"images": own}).overrides(texts, "text") == ["+scale=pydocs"]
    assert Planner(CONFIGS, tmp_path, own_data={"images": own}).overrides(texts, "text") == []
    assert Planner(CONFIGS, tmp_path, own_data={"images": own}).overrides(table, "images") == own


def test_a_text_of_ones_own_is_for_tables_of_texts(tmp_path):
    own = ["dataset=text_file", "dataset.path=somewhere"]
    planner = Planner(CONFIGS, tmp_path, own_data={"text": own}, seeds=[0])
    assert planner.changes(a_table(Row("Base", "cifar10_lenet_base"))) == []
    table = a_table(Row("LSTM", "pydocs_lstm_base"), Row("GPT", "pydocs_gpt_base"), columns={"bits": Column("bits", "test_bpc")})
    assert planner.kinds(table) == ["text"] and planner.overrides(table, "text") == planner.changes(table) == own
    planned = planner.plan([table])[0]
    assert len(planned.jobs) == len({row.experiment for row in table.rows})
    for job in planned.jobs:
        assert job.overrides[1:] == tuple(own)


def test_an_evaluation_that_failed_is_told(tmp_path):
    table = a_table(Row("Base", "digits_lenet_base"), columns={"ood": Column("OOD AUROC", "auroc", "ood")})
    planned = Planner(CONFIGS, tmp_path, seeds=[0]).plan([table])[0]
    finish(planned)
    (job,) = planned.jobs
    (job.directory / "evaluation").mkdir()
    (job.directory / "evaluation" / "ood.error.txt").write_text("no network: try later.\n")
    assert collected(table, planned.now())["Base"].failed == {"seed 0, suite=ood": "no network: try later."}


def test_versions_of_the_code_are_not_mixed(tmp_path):
    table = a_table(Row("Base", "digits_lenet_base"), Row("Late", "digits_lenet_lpbn"))

    def planned() -> Plan:
        return Planner(CONFIGS, tmp_path, seeds=[0]).plan([table])[0]

    finish(Planner(CONFIGS, tmp_path, seeds=[0]).plan([a_table(table.rows[0])])[0], code="0000")
    refuse_mixture(planned(), training=False)
    with pytest.raises(UserError, match=r"another version of the code .*1 by 0000, such as .*default/seed=0\).* --mixed"):
        refuse_mixture(planned(), training=True)  # Late would be by the present one
    finish(planned(), code=code_digest())
    for is_trained in (True, False):
        with pytest.raises(UserError, match="another version of the code"):
            refuse_mixture(planned(), training=is_trained)
    assert "The runs mix 2 versions of the code: 0000, " in notes(table, collected(table, planned()))[-1]


def test_what_is_planned_is_what_hydra_composes(tmp_path):
    """Values, choices, interpolations, and keys that aren't there, one of each kind that tables have."""
    planner = Planner(CONFIGS, tmp_path, "digits", seeds=[0])
    experiment = "+experiment=cifar100_wrn_lpbn"
    for own in (
        (experiment, "late_phase.K=5"),  # the weight decay of late-phase weights follows
        (experiment, "+scale=digits", "late_phase.T0=40", "architecture.weights='a,b=c/seed=${seed}'"),
        (experiment, "schedule=constant", "optimizer.lr=1e-4", "dataset=digits", "dataset.subset=null"),
        (experiment, "+debug=smoke", "pace=0.5", "runtime.threads=1"),
    ):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            composed = compose("train", list(own))
        assert planner._compose(own) == composed
    assert planner._compose((experiment, "late_phase.K=5")).late_phase.weight_decay == pytest.approx(5 * 5e-4)
    for row, message in (("late_phase.T00=1", "T00 is not a key of the config"), ("architecture.width=3", "width is a key of")):
        with pytest.raises(UserError, match=message):
            planner.plan([a_table(Row("Wrong", "cifar10_wrn_base", [row]))])


@pytest.mark.parametrize("name", ["table6", "table9", "table12"])
def test_what_a_sweep_has_in_common_can_be_composed(tmp_path, name):
    """Hydra does so before it starts the jobs."""
    (planned,) = Planner(CONFIGS, tmp_path, "digits").plan([read_table(CONFIGS / "table" / f"{name}.yaml")])
    commands = training(planned, [], tmp_path)
    assert len(commands) <= len(planned.by_overrides("missing"))
    for command in commands:
        given = [PARSER.parse_override(own) for own in command[2:]]
        common = [own.input_line for own in given if not own.is_sweep_override() and not own.key_or_group.startswith("hydra.")]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            compose("train", common)


def test_sweeps_are_few():
    left = {
        ("+experiment=a", "+scale=s"): [0, 1],
        ("+experiment=b", "+scale=s"): [0, 1],
        ("+experiment=b", "+scale=s", "x=1"): [0],
        ("+experiment=c", "+scale=s", "x='2,3'"): [0],
        ("+experiment=c", "+scale=s", "x=4"): [0],
        ("+experiment=c", "+scale=s", "x=5"): [1],
        ("+experiment=c", "+scale=s", "y=4"): [0],
        ("+experiment=d",): [0, 1],
    }
    assert sweeps(left) == [
        ["+experiment=a,b", "+scale=s", "seed=0,1"],
        ["+experiment=b", "+scale=s", "x=1", "seed=0"],
        ["+experiment=c", "+scale=s", "x='2,3',4", "seed=0"],
        ["+experiment=c", "+scale=s", "x=5", "seed=1"],
        ["+experiment=c", "+scale=s", "y=4", "seed=0"],
        ["+experiment=d", "seed=0,1"],
    ]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("optimizer.lr=1e30", "optimizer.lr=1e+30"),
        ("optimizer.lr=1e-4", "optimizer.lr=0.0001"),
        ("late_phase.sigma0=1.0", "late_phase.sigma0=1.0"),
        ("x='a,b=${seed}'", "x='a,b=${seed}'"),
        ("x=[1, 2]", "x=[1,2]"),
        ("+scale=digits", "+scale=digits"),
    ],
)
def test_overrides_are_named_as_sweeps_name_them(given, made):
    assert as_in_sweeps(given) == made


def test_an_override_that_is_no_single_value_is_refused():
    with pytest.raises(UserError, match=r"'x=\[' can't be read .*: write KEY=VALUE"):
        as_in_sweeps("x=[")
    for override in ("~logger", "late_phase.K=2,3", "seed=range(3)"):
        with pytest.raises(UserError, match=r"doesn't give a single value: write KEY=VALUE"):
            as_in_sweeps(override)


def test_seeds_at_another_scale():
    row = Row("Base", seeds=[0, 1, 2, 3], seeds_at={"convnet": [5]})
    table = Table("T", "Mine", [0, 1], {"digits": [7, 8]}, columns=ACCURACY, rows=[row])
    assert [seeds_of(table, row, scale) for scale in ("", "convnet", "digits", "other")] == [[0, 1, 2, 3], [5], [7, 8], [0, 1, 2]]


def test_base_and_late_phase_have_ten_seeds_at_the_convnets_scale():
    for name, row in (("table1", "Base (SGD)"), ("table1", "Late-phase (SGD)"), ("table2", "BatchNorm (SWA)"), ("table3", None)):
        table = read_table(CONFIGS / "table" / f"{name}.yaml")
        for own in table.rows:
            if row in (None, own.name):
                assert seeds_of(table, own, "convnet") == list(range(10))


def test_data_is_for_tables_of_its_kind(main, tmp_path):
    (tmp_path / "text").write_bytes(b"Mine, and nobody else's. " * 99)
    for places, refused in (
        (["text"], "text is a text, but table1, figure2 can't use it: leave it out, or name other tables."),
        (["a.csv"], "a.csv is a table of data, but table1, figure2 can't use it: leave it out, or name other tables."),
        (["text", "b.txt"], "text and b.txt are both a text: give one."),
        (["images", "."], "images and . are both a folder of images: give one."),
    ):
        status, _ = main("table1", "figure2", "--data", *places, "--to", "to", "--dry", script="scripts/table.py")
        assert status == f"error: --data {refused}"
    status, output = main("gpt", "--data", "text", "--to", "to", "--dry", script="scripts/table.py")
    assert status == 0 and f"+experiment=pydocs_gpt_base dataset=text_file dataset.path={tmp_path / 'text'}, seeds 0, 1" in output
