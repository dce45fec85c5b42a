"""Trains one character model twice, with torch.nn and with fusedrnn, and compares the two.

python examples/language_model --cell gru --steps 200 --prompt "ROMEO:"
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

import fusedrnn
from gains import Sizes, measure_gains
from generate import fill_gaps, stream
from model import CharacterModel
from report import draw, print_gains, print_report
from text import Text, masked_character_batches, next_character_batches
from train import largest_relative_difference, train_side_by_side

HERE = Path(__file__).resolve().parent
LARGEST_DIFFERENCE = 1e-3


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="language_model",
        description="Train a character model with torch.nn and with fusedrnn, side by side.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=HERE / "data" / "shakespeare.txt")
    parser.add_argument("--cell", choices=("rnn", "lstm", "gru"), default="lstm")
    parser.add_argument("--bidirectional", action="store_true", help="fill gaps instead")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size, even")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, help="torch.set_num_threads; torch's own choice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=15, help="of the layers side by side")
    parser.add_argument("--prompt", default="KING RICHARD:\n")
    parser.add_argument("--length", type=int, default=400, help="characters to generate")
    parser.add_argument("--temperature", type=float, default=0.6, help="0: the likeliest")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder of demo.png")
    options = parser.parse_args()
    for name in ("hidden", "layers", "steps", "seq_len", "batch", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected 1 or more")
    if options.hidden % 2:
        parser.error(f"--hidden: expected an even number, got {options.hidden}")
    if not options.bidirectional and not options.prompt:
        parser.error("--prompt: expected at least one character")
    return options


def build_models(options: argparse.Namespace, vocabulary: int) -> dict[str, nn.Module]:
    """The same model from both libraries; the seed alone makes their parameters equal."""
    models: dict[str, nn.Module] = {}
    for name, library in (("torch.nn", nn), ("fusedrnn", fusedrnn)):
        torch.manual_seed(options.seed)
        models[name] = CharacterModel(
            library,
            options.cell.upper(),
            vocabulary,
            options.hidden,
            options.layers,
            options.bidirectional,
        )
    return models


def main() -> int:
    options = parse_arguments()
    if options.threads:
        torch.set_num_threads(options.threads)
    text = Text(options.data)
    models = build_models(options, text.vocabulary)
    task = "masked characters" if options.bidirectional else "next character"
    size = f"{options.hidden} units, {options.layers} layer{'s' * (options.layers > 1)}"
    title = f"{options.cell.upper()}, {size}, {task}"
    print(f"{title}; {len(text.ids):,} characters of {options.data.name}, {text.mask} different")
    print(f"batch {options.batch} x {options.seq_len}, {torch.get_num_threads()} threads")

    make_batches = masked_character_batches if options.bidirectional else next_character_batches
    batches = make_batches(text, options.steps, options.batch, options.seq_len, options.seed)
    runs = train_side_by_side(models, batches, options.steps, options.learning_rate)
    print_report(runs)
    sizes = Sizes(options.batch, options.seq_len, options.hidden // 2, options.hidden)
    gains = measure_gains(sizes, options.rounds)
    print_gains(gains)
    draw(runs, gains, title, options.out / "demo.png")
    print(f"picture: {options.out / 'demo.png'}\n")

    trained = models["fusedrnn"].eval()
    if options.bidirectional:
        for label, line in zip(
            ("text", "hidden", "filled in"), fill_gaps(trained, text, 72, options.seed), strict=True
        ):
            print(f"{label:>10}: {line!r}")
    else:
        print(options.prompt, end="")
        for character in stream(
            trained, text, options.prompt, options.length, options.temperature, options.seed
        ):
            print(character, end="", flush=True)
        print()

    curves = [run.losses for run in runs.values()]
    difference = largest_relative_difference(curves[1], curves[0])
    if difference >= LARGEST_DIFFERENCE:
        print(f"the losses differ by {difference:.1e}, more than {LARGEST_DIFFERENCE:.0e}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
