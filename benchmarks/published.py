"""Figures of other models as their authors, or those who compared them, published them. None of them ran here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peer:
    """A published figure: of which model, how large it is where that is stated, on which data."""

    model: str
    size: str
    figure: str
    data: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task on a data set. key: under which tables.py has the figure of `nano`."""

    what: str
    key: str
    nano_size: str
    nano_data: str
    peers: tuple[Peer, ...]


TASKS = (
    Task(
        "CelebA, 40 attributes, mean accuracy",
        "celeba",
        "7.8 M encoder, 3.4 M close-up",
        "CelebA-HQ's validation faces (2,993), trained on its 24,183; the others: CelebA test (19,962), trained on "
        "162,770",
        (
            Peer("FaRL", "ViT-B/16", "0.9207", "fine-tuned; pre-trained on 20 M face-text pairs"),
            Peer("FaceXFormer", "Swin-B", "0.9183", "fine-tuned, multi-task"),
            Peer("Face-LLaVA", "7 B", "0.901", "fine-tuned MLLM; zero-shot 0.868"),
            Peer("Gemini 1.5 Flash", "", "0.814", "zero-shot, as reported with Face-LLaVA"),
            Peer(
                "LLaVA-OneVision",
                "",
                "0.805",
                "zero-shot, as reported with Face-LLaVA; the constant majority answer scores 0.805 too",
            ),
        ),
    ),
    Task(
        "FairFace, gender / age (9 bins) / race (7)",
        "fairface",
        "3.4 M close-up",
        "a validation part (every 20th) of a 39,960-image subset at 160 px",
        (
            Peer("ConvNeXt-Nano", "15 M", "0.956 / 0.608 / 0.753", "official validation, all 86,744 training images"),
            Peer("ResNet-34", "", "0.942 / 0.597 / -", "the same"),
        ),
    ),
    Task(
        "FER+, expression, majority label",
        "ferplus",
        "3.4 M close-up",
        "PublicTest without pixel copies of training images, usable images only",
        (Peer("VGG13 (FER+'s authors)", "", "about 0.84 to 0.85", "PrivateTest"),),
    ),
    Task(
        "CelebAMask-HQ, mean F1 of the foreground",
        "celebamask",
        "0.7 M parser",
        "125 validation pairs at 256 px, trained on 736",
        (
            Peer("FaRL", "ViT-B/16", "0.8965", "test split, 30,000 masks in all"),
            Peer("SegFace, MobileNetV3", "", "0.8791", "test split, 30,000 masks in all"),
        ),
    ),
)
