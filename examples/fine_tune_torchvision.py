"""Fine-tunes a torchvision model on a folder of images, with late-phase BatchNorm and head.

The folder has train/<class>/* and test/<class>/*. Without one, the script writes a small folder of scikit-learn's handwritten
digits. Trains a ResNet-18 twice, with the same seed and the same minibatches: once plainly, once with late-phase weights. Prints
the test accuracy and loss of both. The single model has the keys of any ResNet-18.

    pip install -e '.[examples]'
    python examples/fine_tune_torchvision.py                      # the digits, from scratch: 40 seconds on one CPU core
    python examples/fine_tune_torchvision.py --weights DEFAULT --folder FOLDER --size 224 --save resnet18.pt
"""

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from late_phase import LatePhase, batchnorm, head

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NORMALIZE = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])  # what torchvision's weights were trained with


def write_digits(folder: Path) -> None:
    """Writes 500 training and 500 test images as PNG files."""
    digits = load_digits()
    for i in range(1000):
        path = folder / ("train" if i % 2 else "test") / str(digits.target[i]) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).astype("uint8")).save(path)


def datasets(folder: Path, size: int) -> tuple[ImageFolder, ImageFolder]:
    to_tensor = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), NORMALIZE]
    augment = v2.Compose([v2.RandomResizedCrop(size, scale=(0.7, 1.0)), *to_tensor])
    resize = v2.Compose([v2.Resize((size, size)), *to_tensor])
    return ImageFolder(folder / "train", augment), ImageFolder(folder / "test", resize)


def train(data: ImageFolder, weights: str | None, epochs: int, T0: int | None) -> LatePhase:
    """Trains a ResNet-18. With T0=None the members are never spawned, which is plain training to the last bit."""
    torch.manual_seed(0)
    model = resnet18(weights=weights).to(DEVICE)
    model.fc = nn.Linear(model.fc.in_features, len(data.classes), device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    # After spawn() the base weights move once in K steps. SGD moves them by the sum of K gradients. Adam's steps don't grow with
    # the gradient, so base weights learn K times slower: choose a small K, and spawn when most of the learning is done.
    late = LatePhase(model, optimizer, batchnorm() + head("fc"), K=3)
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)  # a last minibatch of one image would break BatchNorm
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * len(loader))
    for epoch in range(epochs):
        if epoch == T0:
            late.spawn()  # from here on there are K members, and the model is one of them at a time
        for images, labels in loader:
            cross_entropy(model(images.to(DEVICE)), labels.to(DEVICE)).backward()
            late.step()  # in place of optimizer.step(); also clears the gradients
            schedule.step()
    return late


@torch.no_grad()
def report(name: str, model: nn.Module, data: ImageFolder) -> None:
    model.eval()
    correct = loss = 0.0
    for images, labels in DataLoader(data, batch_size=100):
        logits, labels = model(images.to(DEVICE)), labels.to(DEVICE)
        correct += (logits.argmax(1) == labels).sum().item()
        loss += cross_entropy(logits, labels, reduction="sum").item()
    print(f"{name:16} test accuracy {correct / len(data):.2%}, test loss {loss / len(data):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="your images instead of the digits")
    parser.add_argument("--weights", help="weights to start from, by torchvision's names; DEFAULT downloads ImageNet's")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels; 224 suits photographs")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--save", type=Path, help="write the single model's weights to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as digits:
        if args.folder is None:
            write_digits(Path(digits))
        data, test_data = datasets(args.folder or Path(digits), args.size)
        report("plain model", train(data, args.weights, args.epochs, T0=None).average(), test_data)
        single = train(data, args.weights, args.epochs, T0=args.epochs * 2 // 3).average()
        report("late-phase model", single, test_data)
    if args.save:
        torch.save(single.state_dict(), args.save)  # loads into resnet18(num_classes=...)


if __name__ == "__main__":
    main()
