"""Drydock's stream side: translate, fold, decide, publish, replay."""
