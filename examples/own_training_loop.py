"""A user-defined training loop: all that is needed to change the loop itself.

    boxwood data shapes --out demo/data
    python examples/own_training_loop.py --data demo/data --steps 500 --out own.safetensors
    boxwood predict demo/data/val --model own.safetensors

What `boxwood train` adds to this: a schedule, checkpoints and exact resume, several processes, a log, the search for the image that
made a loss infinite. All parts below are those that it uses.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from boxwood.data.loader import eval_batches, train_batches
from boxwood.evaluation import CocoEvaluator, evaluate, format_table
from boxwood.recipes import resolve
from boxwood.weights import save_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default="demo/data", help="train.json, train/, val.json, val/")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default="own.safetensors", help="where the weights go")
    arguments = parser.parse_args()

    # A recipe gives the network and the data; you may as well build them yourself, without any configuration.
    train, val = arguments.data / "train", arguments.data / "val"
    paths = [f"data.train.annotations={train}.json", f"data.train.images={train}"]
    paths += [f"data.val.annotations={val}.json", f"data.val.images={val}"]
    config = resolve("demo_shapes", paths)
    train_set, val_set = config.data.train.open(), config.data.val.open()
    torch.manual_seed(0)
    model: Any = config.model.build(train_set.categories, config.test).to(arguments.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=arguments.lr)

    # Endless batches, the same for the same seed whatever the number of workers.
    batches = train_batches(train_set, config.data.train.transforms, batch_size=4, seed=0, workers=2)
    model.train()
    for step in range(1, arguments.steps + 1):
        batch = next(batches).to(arguments.device)
        output = model(batch)  # everything that the network computes; look into it, add a head, compute another loss
        losses = model.losses(output, batch.targets)  # {"loss_class": ..., "loss_box": ..., ...}
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % 10 == 0 or step == arguments.steps:
            print(f"step {step}  loss {loss:.3f}  " + "  ".join(f"{name} {value:.3f}" for name, value in losses.items()))

    # Detections of every image in, AP out, by the COCO API's definition.
    val_batches = eval_batches(val_set, config.data.val.transforms, batch_size=1, workers=2)
    metrics = evaluate(model, val_batches, CocoEvaluator(val_set.to_coco(), val_set.categories), arguments.device)
    print(format_table(metrics))
    save_weights(arguments.out, model.state_dict(), config, train_set.categories)


if __name__ == "__main__":
    main()
