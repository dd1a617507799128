"""Late-phase weights with DistributedDataParallel in several processes, each on a part of the data.

Trains a small ConvNet on scikit-learn's handwritten digits twice, with the same seed and the same minibatches: once plainly, once
with late-phase BatchNorm and head. Prints the test accuracy and loss of both. After T0 the processes exchange the gradients of the
shared weights once in K minibatches, instead of once a minibatch. On GPUs choose the backend nccl, and move model and data to the
process's device.

    pip install -e '.[examples]'
    torchrun --nproc-per-node=2 examples/data_parallel.py      # 17 seconds on two CPU cores
"""

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from late_phase import LatePhase, batchnorm, head


def block(channels: int, filters: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2))


def convnet() -> nn.Module:
    return nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Linear(32 * 2 * 2, 10))


def train(data: TensorDataset, epochs: int, T0: int | None) -> LatePhase:
    """Trains a ConvNet. With T0=None the members are never spawned, which is plain training."""
    torch.manual_seed(0)
    model = DistributedDataParallel(convnet())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    late = LatePhase(model, optimizer, batchnorm() + head(), K=5, process_group=dist.group.WORLD)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    sampler = DistributedSampler(data, seed=0)
    loader = DataLoader(data, batch_size=32 // dist.get_world_size(), sampler=sampler)
    for epoch in range(epochs):
        if epoch == T0:
            late.spawn()  # the members are those of the first process
        sampler.set_epoch(epoch)
        for images, labels in loader:
            with model.no_sync():  # late.step() exchanges the gradients
                cross_entropy(model(images), labels).backward()
            late.step()
        schedule.step()
    late.gather()  # gives all processes the same state: call it before average() or state_dict(), on all of them
    return late


def report(name: str, log_probs: Tensor, labels: Tensor) -> None:
    accuracy = (log_probs.argmax(1) == labels).float().mean()
    print(f"{name:19} test accuracy {accuracy:.2%}, test loss {nll_loss(log_probs, labels):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--save", type=Path, help="write the single model's weights to this file")
    args = parser.parse_args()
    dist.init_process_group("gloo")

    digits = load_digits()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)
    split = train_test_split(images, labels, train_size=500, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = split
    data = TensorDataset(train_images, train_labels)

    late = train(data, args.epochs, T0=args.epochs // 2)
    plain = train(data, args.epochs, T0=None).model.eval()
    if dist.get_rank() == 0:
        single = late.average().eval()  # one plain model, at the cost of one
        with torch.no_grad():
            report("plain model", plain(test_images).log_softmax(1), test_labels)
            report("late-phase model", single(test_images).log_softmax(1), test_labels)
            report("ensemble of members", late.ensemble(test_images), test_labels)
        if args.save:
            torch.save(single.state_dict(), args.save)  # the keys are those of convnet()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
