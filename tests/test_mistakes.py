"""Mistakes on the command line of ``train.py`` are answered in one sentence, and leave nothing behind."""

from __future__ import annotations

import re

import pytest
from pictures import images

MISTAKES = {
    "a misspelt key": (["late_phase.T00=3"], r"late_phase\.T00 is not a key of the config: did you mean T0\?"),
    "a misspelt key at the top": (["epohcs=3"], r"epohcs is not a key of the config: did you mean epochs\?"),
    "a key added": (["+optimizer.beta=3"], r"optimizer\.beta is not a key of the config: choose one of name, lr,"),
    "a wrong type": (["epochs=abc"], r"epochs: Value 'abc' of type 'str' could not be converted to Integer"),
    "a wrong type inside": (["late_phase.K=2.5"], r"late_phase\.K: Value '2\.5'"),
    "an unknown dataset": (
        ["dataset=mnist"],
        r"dataset=mnist is unknown: choose one of breast_cancer, california_housing, cifar10, ",
    ),
    "an unknown experiment": (
        ["+experiment=cifar10_wrn"],
        r"experiment=cifar10_wrn is unknown: did you mean cifar10_wrn_\w+, .* or another of configs/experiment/\?",
    ),
    "an unknown choice": (["late_phase.running_statistics=median"], "running_statistics=median is unknown: choose one of mean,"),
    "a name without its group": (["architecture.name=wrn"], "architecture.name can't be set by itself"),
    "an unknown device": (["runtime.device=cuda:99"], r"runtime\.device=cuda:99 is not available here"),
    "T0 after the end": (["late_phase.T0=300"], r"late_phase\.T0=300 is after the last epoch \(epochs=60\): lower"),
    "no members": (["late_phase.K=0"], r"late_phase\.K=0 is out of range"),
    "members without late-phase weights": (["late_phase=none", "late_phase.K=3"], "late_phase.K=3 needs late-phase weights"),
    "noise without late-phase weights": (
        ["late_phase=none", "late_phase.sigma0=0.1"],
        r"late_phase\.sigma0=0\.1 has no effect with late_phase=none: leave it out, or choose another late_phase",
    ),
    "a late phase without its beginning": (["late_phase=none", "late_phase.T0=40"], r"late_phase\.T0=40 has no effect"),
    "weight decay of no late-phase weights": (
        ["late_phase=accumulation", "late_phase.weight_decay=0"],
        r"late_phase\.weight_decay=0 has no effect with late_phase=accumulation",
    ),
    "samples without dropout": (
        ["architecture=vit", "architecture.mc_samples=20"],
        r"architecture\.mc_samples=20 has no effect with architecture=vit: leave it out, or choose another architecture",
    ),
    "negative noise": (["late_phase.sigma0=-1"], r"late_phase\.sigma0=-1\.0 is out of range"),
    "no noise at all": (["late_phase.sigma0=nan"], r"late_phase\.sigma0=nan is out of range"),
    "a batch larger than the data": (["batch_size=5000"], r"batch_size=5000 is larger than the training set \(1437 images\)"),
    "a batch of one": (["dataset.subset=33", "batch_size=32"], "batch_size=32 leaves one of the 33 images alone in a minibatch"),
    "a subset larger than the data": (["dataset.subset=2000"], "ask for more than the 1437 training images of digits"),
    "a missing image folder": (["dataset=image_folder", "dataset.root=nowhere"], r"dataset\.root=nowhere has no folder train"),
    "no image folder given": (["dataset=image_folder"], r"dataset\.root is not set: add dataset\.root=VALUE\."),
    "an empty image folder": (["dataset=image_folder", "dataset.root=empty"], r"dataset\.root=empty has no class folders in train"),
    "an unreadable image": (["dataset=image_folder", "dataset.root=broken"], r"broken/train/a/2\.png is not a readable image"),
    "images of a size that does not fit": (
        ["dataset=image_folder", "dataset.root=large"],
        "lenet takes images of 32 x 32 pixels, not 40 x 40: set dataset.image_size=32",
    ),
    "images of no size": (
        ["dataset=image_folder", "dataset.root=large", "dataset.image_size=0"],
        r"dataset\.image_size=0 is out of",
    ),
    "images larger than the memory": (
        ["dataset=image_folder", "dataset.root=large", "dataset.image_size=1000000"],
        r"dataset\.image_size=1000000 with 3 images needs about 8,381\.9 GiB of memory, .* GiB: choose a smaller one",
    ),
    "padding larger than the memory": (
        ["dataset.crop_padding=100000000"],
        r"dataset\.crop_padding=100000000 around 1,437 images of 32 x 32 pixels needs about 1,073,741,824\.0 GiB of memory or more",
    ),
    "no network": (
        ["dataset=cifar10"],
        r"lacks cifar-10-python\.tar\.gz \(170,498,071 bytes, md5 c58f3010\w+\), which could not be downloaded .* put it there",
    ),
    "half a schedule": (["schedule.epochs=[1,2,3]"], r"schedule\.epochs=\[1, 2, 3\] and schedule\.factors=\[1\.0, 0\.01\] don't"),
    "a list of lists": (["schedule.epochs=[[1]]"], r"schedule\.epochs=\[\[1\]\] has lists in it: write schedule\.epochs=\[VALUE,"),
    "a pattern in two lists": (["late_phase=select", "late_phase.select=[[bn1]]"], r"select=\[\['bn1'\]\] has lists in it: write"),
    "momentum missing": (["optimizer.momentum=0"], "optimizer.nesterov needs momentum"),
    "an impossible architecture": (["architecture=wrn", "architecture.depth=27"], r"architecture\.depth=27 is not 6 n \+ 4"),
    "debug overruled": (["+debug=smoke", "+experiment=digits_lenet_base"], "put .debug after .experiment"),
    "a list of experiments": (["+experiment=[digits_lenet_base,digits_lenet_lpbn]"], "is a list, but a run has one experiment"),
    "nonsense": (["epochs=[3"], r"'epochs=\[3' can't be read .*: write KEY=VALUE"),
    "a value without a key": (["=5"], "'=5' has no key: write KEY=VALUE"),
    "a key without a value": (["epochs"], "'epochs' has no value: write epochs=VALUE"),
    "nothing for a number": (["seed="], "seed: Value '' of type 'str' could not be converted to Integer"),
    "a number for a choice": (["late_phase=3"], "late_phase=3 doesn't name a choice: write late_phase=NAME"),
    "nothing for a choice": (["dataset="], "dataset= is unknown: choose one of breast_cancer, california_housing, cifar10"),
    "a launcher that isn't installed": (["hydra/launcher=nowhere"], "hydra/launcher=nowhere is unknown: choose one of basic"),
    "a sweep without -m": (["epochs=3,4"], "epochs=3,4 has several values: put -m before it"),
    "another sweep without -m": (["epochs=choice(3,4)"], "has several values: put -m before it"),
    "a key taken away": (["~epochs"], "epochs is not set: add epochs=VALUE"),
    "an interpolation of nothing": (["dataset.mean=${nothing}"], r"\$\{nothing\} is not a key of the config"),
    "an empty path": (["architecture.weights="], "architecture.weights is empty: give a path, such as . for the current folder"),
    "another empty path": (["dataset=image_folder", "dataset.root=''"], "dataset.root is empty: give a path"),
    "an empty directory": (
        ["hydra.run.dir=''"],
        "hydra.run.dir is empty: leave it out, or give a path,",
    ),
    "an option that there is not": (["--no-such-flag"], "unrecognized arguments: --no-such-flag"),
    "no plus": (["experiment=digits_lenet_base"], r"write \+experiment=NAME"),
    "a learning rate that is no number": (["optimizer.lr=nan"], r"optimizer\.lr=nan is out of range"),
    "a momentum above one": (["optimizer.momentum=2"], r"optimizer\.momentum=2\.0 is out of range"),
    "half of Adam": (["optimizer=adam", "optimizer.betas=[0.9]"], r"optimizer\.betas=\[0\.9\] must be two numbers"),
    "gradient ascent": (["schedule.factors=[1,-1]"], "no factor below 0"),
    "a device without memory": (["runtime.device=meta"], r"runtime\.device=meta is not available here"),
    "averaging that never begins": (["averaging=swa"], r"averaging\.start=160 leaves none of 60 epochs to average"),
    "averaging without a beginning": (["averaging=swa", "averaging.start=null"], r"averaging\.start is not set"),
    "a Gaussian of many members": (["averaging=swag", "averaging.start=1"], "averaging=swag is a Gaussian over the weights of one"),
    "a covariance of rank 1": (["averaging=swag", "averaging.start=1", "averaging.rank=1"], r"averaging\.rank=1 is out of range"),
    "an average that never moves": (
        ["averaging=ema", "averaging.decay=1"],
        r"averaging\.decay=1\.0 is out of range: choose from 0",
    ),
    "an average of nothing": (["averaging=lawa", "averaging.models=0"], r"averaging\.models=0 is out of range: choose a number"),
    "more weights than memory": (
        ["averaging=lawa", "averaging.models=1000000000000", "epochs=1000000000000"],
        r"averaging\.models=1000000000000 needs about .* GiB: choose a smaller number",
    ),
    "a schedule for what needs none": (
        ["optimizer=schedule_free"],
        r"schedule\.name=piecewise_linear changes the learning rate, but optimizer=schedule_free averages instead: choose sch",
    ),
    "an average of averages": (
        ["optimizer=schedule_free_adamw", "schedule=constant", "averaging=ema"],
        "averaging=ema would average what optimizer=schedule_free_adamw averages already: choose averaging=none",
    ),
    "an average with no share": (
        ["optimizer=schedule_free", "schedule=constant", "optimizer.momentum=0"],
        r"optimizer\.momentum=0\.0 is out of range: choose from above 0",
    ),
    "another average with no share": (
        ["optimizer=schedule_free_adamw", "schedule=constant", "optimizer.betas=[0,0.9]"],
        r"optimizer\.betas=\[0\.0, 0\.9\] begins with 0",
    ),
    "a warm-up that ended before": (
        ["optimizer=schedule_free", "schedule=constant", "optimizer.warmup_steps=-1"],
        r"optimizer\.warmup_steps=-1 is out of range",
    ),
    "a look ahead of no step": (["averaging=lookahead", "averaging.steps=0"], r"averaging\.steps=0 is out of range"),
    "a look ahead in vain": (
        ["averaging=lookahead", "averaging.alpha=0"],
        r"averaging\.alpha=0\.0 is out of range: choose from above",
    ),
    "members pulled too far": (["late_phase.pull=1.5"], r"late_phase\.pull=1\.5 is out of range: choose from 0 to 1"),
    "nothing to pull": (["late_phase=accumulation", "late_phase.pull=1"], r"late_phase\.pull=1\.0 needs late-phase weights, but"),
    "pooling of another kind": (["architecture.pooling=min"], r"architecture\.pooling=min is unknown: choose max or average"),
    "another weight decay than none": (
        ["optimizer.weight_decay=0", "late_phase.theta_weight_decay=0.005"],
        r"theta_weight_decay=0\.005 can't replace optimizer\.weight_decay=0: set optimizer\.weight_decay above 0",
    ),
    "a weight decay that leaves one open": (
        ["late_phase.theta_weight_decay=0.005"],
        r"leaves open what late-phase weights get: set late_phase\.weight_decay too, such as to 0\.0005, the optimizer's",
    ),
    "a negative weight decay": (["late_phase.theta_weight_decay=-1"], r"late_phase\.theta_weight_decay=-1\.0 is out of range"),
    "momentum for ever": (["late_phase.outer=1"], r"late_phase\.outer=1\.0 is out of range: choose from 0 to below 1"),
    "momentum of frozen weights": (
        ["late_phase.outer=0.5", "late_phase.gamma_theta=0"],
        r"late_phase\.outer=0\.5 needs base weights that move: choose 0",
    ),
    "momentum of no late phase": (
        ["late_phase=none", "late_phase.T0=null", "late_phase.outer=0.5"],
        r"late_phase\.outer=0\.5 needs a late phase, but late_phase=none has none",
    ),
    "momentum of no base weights": (
        ["late_phase=full", "late_phase.outer=0.5"],
        r"late_phase=full with architecture=lenet: outer=0\.5 is for the steps of base weights, but none of these moves",
    ),
    "weights moved behind an average": (
        ["optimizer=schedule_free", "schedule=constant", "late_phase.pull=0.5"],
        r"late_phase\.pull=0\.5 would change weights that optimizer=schedule_free averages: choose 0",
    ),
    "an ensemble of ensembles": (["ensemble=batch_ensemble"], "ensemble=batch_ensemble has members of its own"),
    "fast weights of no kind": (
        ["ensemble=batch_ensemble", "late_phase=none", "late_phase.T0=null", "ensemble.init=ones"],
        r"ensemble\.init=ones is unknown: choose one of normal, sign",
    ),
    "rank-1 weights that may vanish": (["late_phase=rank1", "late_phase.spread=1"], r"late_phase\.spread=1\.0 is out of range"),
    "weights that would be lost": (
        ["late_phase=hypernetwork", "architecture.weights=here.pt"],
        "late_phase=hypernetwork generates new weights for all convolutions: leave out architecture.weights",
    ),
    "weights that are not there": (["architecture.weights=here.pt"], r"architecture\.weights=here\.pt"),
    "a probability of 1": (["architecture.dropout=1"], r"architecture\.dropout=1\.0 is out of range"),
    "grey images for an ImageNet model": (["architecture=resnet50"], r"architecture=resnet50 with dataset=digits: .*channels"),
    "ascent of the base weights": (["late_phase.gamma_theta=-1"], r"late_phase\.gamma_theta=-1\.0 is out of range"),
    "training on what has no classes": (["dataset=noise"], "dataset=noise is for evaluation only and has no training images"),
    "a negative seed": (["seed=-1"], r"seed=-1 is out of range: choose from 0 to below 2\^63"),
    "a seed of the split that is none": (["dataset.split_seed=-1"], r"dataset\.split_seed=-1 is out of range: choose from 0"),
    "no ImageNet": (["dataset=imagenet", "architecture=resnet50"], r"dataset\.root=.*imagenet has neither the folder train"),
    "the last layer of nothing": (["late_phase=accumulation", "late_phase.head=true"], "choose late_phase=head"),
    "the last layer without it": (["late_phase=head", "late_phase.head=false"], r"late_phase\.head=False leaves no late-phase"),
    "nothing to train": (["late_phase=accumulation", "late_phase.gamma_theta=0"], "leaves nothing to train after T0"),
    "more members than minibatches": (["late_phase.K=500", "epochs=21"], r"K=500 is more than the 45 minibatches after T0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence_and_leaves_nothing(main, tmp_path, mistake):
    for split in ("train", "test"):
        (tmp_path / "empty" / split).mkdir(parents=True)
        images(tmp_path, *(f"{folder}/{split}/a/{i}.png" for folder in ("broken", "large") for i in range(3)), size=40)
    (tmp_path / "broken/train/a/2.png").write_bytes(b"\x89PNG not quite")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    arguments, pattern = MISTAKES[mistake]
    status, _ = main(*arguments)
    assert isinstance(status, str), "it ended well"
    assert status.startswith("error: ") and "\n" not in status and len(status) < 500
    assert re.search(pattern, status), status
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"} - before
    assert all(path.parent == tmp_path / "data/cache" and path.suffix == ".safetensors" for path in left)
    assert not (tmp_path / "outputs").exists()
