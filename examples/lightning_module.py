"""Late-phase weights in a LightningModule, with Lightning's own checkpoints.

To Lightning, LatePhase is an optimizer: configure_optimizers returns it, and Lightning's checkpoints then hold the members, too.
Trains a small network on scikit-learn's handwritten digits twice, with the same seed and the same minibatches: once plainly, once
with late-phase BatchNorm and head. Prints the test accuracy and loss of both. The task is too easy to show a gain: expect a
difference of a few test images, either way.

    pip install -e '.[examples]'
    python examples/lightning_module.py             # 15 seconds on one CPU core; writes outputs/lightning_module/
    python examples/lightning_module.py --resume outputs/lightning_module/epoch=29.ckpt     # ends with the same weights
"""

import argparse
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from late_phase import LatePhase, batchnorm, head


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10)
    )


class Digits(lightning.LightningModule):
    def __init__(self, epochs: int, T0: int | None) -> None:
        super().__init__()
        self.automatic_optimization = False  # training_step calls backward and step itself
        self.epochs, self.T0 = epochs, T0
        self.model = network()

    def configure_optimizers(self) -> tuple[list, list]:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.late = LatePhase(self.model, optimizer, batchnorm() + head(), K=5)
        return [self.late], [torch.optim.lr_scheduler.CosineAnnealingLR(self.late, self.epochs)]

    def on_train_epoch_start(self) -> None:
        # With T0=None there are no members: plain training. A run that resumes within this epoch has them already.
        if self.current_epoch == self.T0 and not self.late.spawned:
            self.late.spawn()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.manual_backward(cross_entropy(self.model(images), labels))
        self.optimizers().step()  # calls late.step(), and lets Lightning count the steps, which its checkpoints need

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers().step()

    def on_fit_end(self) -> None:
        self.model = self.late.average()  # the single model: trainer.test and trainer.predict use it from here on

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.model(images)
        self.log("accuracy", (logits.argmax(1) == labels).float().mean())
        self.log("loss", cross_entropy(logits, labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--checkpoints", type=Path, default=Path("outputs/lightning_module"), help="folder of the checkpoints")
    parser.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="the late-phase run resumes from this file")
    parser.add_argument("--save", type=Path, help="write the single model's weights to this file")
    args = parser.parse_args()

    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    split = train_test_split(images, labels, train_size=500, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    data = TensorDataset(train_images, train_labels)
    # Lightning tells this sampler the epoch. The order depends on nothing else, so a resumed run sees the same minibatches.
    loader = DataLoader(data, batch_size=32, sampler=DistributedSampler(data, num_replicas=1, rank=0))
    test_loader = DataLoader(TensorDataset(test_images, test_labels), batch_size=len(test_labels))

    for name, T0 in (("plain model", None), ("late-phase model", args.epochs // 2)):
        lightning.seed_everything(0, verbose=False)
        module = Digits(args.epochs, T0)
        checkpoints = [ModelCheckpoint(args.checkpoints, filename="{epoch}", save_top_k=-1)] if T0 else []
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(T0)}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=args.epochs, callbacks=checkpoints, **quiet)
        trainer.fit(module, loader, ckpt_path=args.resume if T0 else None)
        (result,) = trainer.test(module, test_loader, verbose=False)
        print(f"{name:16} test accuracy {result['accuracy']:.2%}, test loss {result['loss']:.4f}")
    if args.save:
        torch.save(module.model.state_dict(), args.save)  # the keys are those of network()


if __name__ == "__main__":
    main()
