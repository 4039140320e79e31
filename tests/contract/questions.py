"""What the SDKs' tests ask, and what the demo's corpus answers."""

from __future__ import annotations

from typing import Any

from serve.demo import corpus
from serve.demo.tokenizer import ASSISTANT, END, USER

SUBJECT = next(subject for subject in corpus.load() if subject.question == "When are you open?")
QUESTION = SUBJECT.question
ANSWER = SUBJECT.answers["base"]
PROMPT = f"{USER}{QUESTION}{END}{ASSISTANT}"
"""The question as the chat template writes it: `/v1/completions` applies none."""
SUPPORT_ANSWER = SUBJECT.answers["support"]

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"open": {"type": "boolean"}, "days": {"type": "integer", "minimum": 0, "maximum": 7}},
    "required": ["open", "days"],
    "additionalProperties": False,
}

TOOL_NAME = "opening_hours"
TOOL_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"weekday": {"type": "string", "enum": ["monday", "sunday"]}},
    "required": ["weekday"],
    "additionalProperties": False,
}
