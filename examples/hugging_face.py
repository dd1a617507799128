"""A Hugging Face transformer with late-phase LayerNorm and head.

Trains a small BERT, built from its config, to tell whether most clauses of a review are praise. The script makes up the reviews.
Trains it twice, with the same seed and the same minibatches: once plainly, once with late-phase weights. Prints the test accuracy
and loss of both and of the members' ensemble. Saves the single model, which from_pretrained loads like any other.

    pip install -e '.[examples]'
    python examples/hugging_face.py    # 35 seconds on one CPU core; writes outputs/hugging_face/
"""

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import nll_loss
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from late_phase import LatePhase, head, layernorm

SUBJECTS = ["plot", "acting", "music", "camera", "ending", "humour"]
PRAISE, BLAME = ["great", "moving", "clever", "fresh"], ["dull", "weak", "silly", "stale"]
WORDS = ["[PAD]", "[CLS]", *SUBJECTS, "not", *PRAISE, *BLAME]
Batch = dict[str, Tensor]


def reviews(n: int, seed: int) -> Batch:
    """Makes up reviews of 1, 3 or 5 clauses such as "acting not dull". The label says whether most clauses are praise."""
    draw = random.Random(seed)
    tokens, labels = [], []
    for _ in range(n):
        words, praise = ["[CLS]"], 0
        clauses = draw.choice([1, 3, 5])
        for _ in range(clauses):
            positive, negated = draw.random() < 0.5, draw.random() < 0.3
            words += [draw.choice(SUBJECTS), *["not"] * negated, draw.choice(PRAISE if positive else BLAME)]
            praise += positive != negated
        tokens.append([WORDS.index(word) for word in words] + [0] * (16 - len(words)))
        labels.append(praise > clauses / 2)
    input_ids = torch.tensor(tokens)
    return {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "labels": torch.tensor(labels).long()}


def train(data: Batch, epochs: int, T0: int | None) -> LatePhase:
    """Trains a BERT. With T0=None the members are never spawned, which is plain training to the last bit."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(WORDS), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    # After spawn() the base weights move once in K steps. SGD moves them by the sum of K gradients. Adam's steps don't grow with
    # the gradient, so base weights learn K times slower: choose a small K, and spawn when most of the learning is done.
    late = LatePhase(model, optimizer, layernorm() + head("classifier"), K=5)
    n, size = len(data["labels"]), 32
    schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=50, num_training_steps=epochs * n // size)
    model.train()
    for epoch in range(epochs):
        if epoch == T0:
            late.spawn()  # from here on there are K members, and the model is one of them at a time
        for rows in torch.randperm(n).split(size):
            loss = model(**{key: value[rows] for key, value in data.items()}).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # as always: these are the gradients of this minibatch
            late.step()  # in place of optimizer.step(); also clears the gradients
            schedule.step()
    return late


def logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    return model(**batch).logits


def report(name: str, log_probs: Tensor, labels: Tensor) -> None:
    accuracy = (log_probs.argmax(1) == labels).float().mean()
    print(f"{name:19} test accuracy {accuracy:.2%}, test loss {nll_loss(log_probs, labels):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--save", type=Path, default=Path("outputs/hugging_face"), help="folder to write the single model to")
    args = parser.parse_args()

    training, test = reviews(2048, seed=0), reviews(1000, seed=1)
    plain = train(training, args.epochs, T0=None).average().eval()
    late = train(training, args.epochs, T0=args.epochs * 2 // 3)
    late.average().save_pretrained(args.save)
    single = BertForSequenceClassification.from_pretrained(args.save).eval()
    with torch.no_grad():
        report("plain model", logits(plain, test).log_softmax(1), test["labels"])
        report("late-phase model", logits(single, test).log_softmax(1), test["labels"])
        # The model takes keywords and returns an object, so `forward` says how to get the logits.
        report("ensemble of members", late.ensemble(test, forward=logits), test["labels"])


if __name__ == "__main__":
    main()
