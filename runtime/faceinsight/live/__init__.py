"""People in front of a camera: who stands where, and what is found of them over many frames."""

from .watch import Event, Person, Watcher, states

__all__ = ["Event", "Person", "Watcher", "states"]
