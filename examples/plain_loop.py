"""Late-phase weights in a plain PyTorch loop, with a checkpoint that resumes.

Trains a small ConvNet on scikit-learn's handwritten digits twice, with the same seed and the same minibatches: once plainly, once
with late-phase BatchNorm and head. Prints the test accuracy and loss of both. The task is too easy to show a gain: expect a
difference of a few test images, either way.

    pip install -e '.[examples]'
    python examples/plain_loop.py                                        # 10 seconds on one CPU core
    python examples/plain_loop.py --checkpoint run.pt --stop-after 40    # stops early, as an interruption would
    python examples/plain_loop.py --checkpoint run.pt                    # resumes, and ends with the same weights
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.data import DataLoader, TensorDataset

from late_phase import LatePhase, batchnorm, head


def block(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2))


def convnet() -> nn.Module:
    return nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Linear(32 * 2 * 2, 10))


def train(data: TensorDataset, epochs: int, T0: int | None, checkpoint: Path | None = None, stop: int | None = None) -> LatePhase:
    """Trains a ConvNet. With T0=None the members are never spawned, which is plain training to the last bit."""
    torch.manual_seed(0)
    model = convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    late = LatePhase(model, optimizer, batchnorm() + head(), K=5)  # head() is the last nn.Linear
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator()
    loader = DataLoader(data, batch_size=32, shuffle=True, generator=generator)

    start = 0
    if checkpoint and checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])  # before late, which then puts its present member into the model
        late.load_state_dict(saved["late"])  # the members and the optimizer's state
        schedule.load_state_dict(saved["schedule"])
        start = saved["epoch"]
        print(f"resumed after epoch {start}")

    for epoch in range(start, epochs if stop is None else stop):
        if epoch == T0:
            late.spawn()  # from here on there are K members, and the model is one of them at a time
        generator.manual_seed(epoch)  # an epoch's minibatches depend on nothing else, so a resumed run sees the same
        for images, labels in loader:
            cross_entropy(model(images), labels).backward()
            late.step()  # in place of optimizer.step(); also clears the gradients
        schedule.step()
        if checkpoint:
            state = {"model": model.state_dict(), "late": late.state_dict(), "schedule": schedule.state_dict(), "epoch": epoch + 1}
            torch.save(state, checkpoint)
    return late


def report(name: str, log_probs: Tensor, labels: Tensor) -> None:
    accuracy = (log_probs.argmax(1) == labels).float().mean()
    print(f"{name:19} test accuracy {accuracy:.2%}, test loss {nll_loss(log_probs, labels):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--checkpoint", type=Path, help="the late-phase run saves to this file, and resumes from it if it exists")
    parser.add_argument("--stop-after", type=int, metavar="EPOCH", help="end the late-phase run here, without a report")
    parser.add_argument("--save", type=Path, help="write the single model's weights to this file")
    args = parser.parse_args()

    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)
    split = train_test_split(images, labels, train_size=500, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    data = TensorDataset(train_images, train_labels)

    late = train(data, args.epochs, T0=args.epochs // 2, checkpoint=args.checkpoint, stop=args.stop_after)
    if args.stop_after is not None:
        return
    single = late.average().eval()  # one plain model, at the cost of one
    plain = train(data, args.epochs, T0=None).model.eval()
    with torch.no_grad():
        report("plain model", plain(test_images).log_softmax(1), test_labels)
        report("late-phase model", single(test_images).log_softmax(1), test_labels)
        report("ensemble of members", late.ensemble(test_images), test_labels)
    if args.save:
        torch.save(single.state_dict(), args.save)  # the keys are those of convnet()


if __name__ == "__main__":
    main()
