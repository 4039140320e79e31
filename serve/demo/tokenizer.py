"""A byte-level BPE tokenizer, trained on the corpus: any Unicode text goes in and comes out unchanged."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 2048

BOS, END, PAD = "<s>", "<|end|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"

# Kept on one line: white space in it would be tokens. Calls of tools are shown as JSON; roles that the model was
# not trained on get the nearest one it knows.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message.role in ['system', 'developer'] -%}{{- '<|system|>' -}}"
    "{%- elif message.role == 'assistant' -%}{{- '<|assistant|>' -}}"
    "{%- elif message.role in ['tool', 'function'] -%}{{- '<|tool|>' -}}"
    "{%- else -%}{{- '<|user|>' -}}{%- endif -%}"
    "{{- message.content or '' -}}"
    "{%- for call in message.tool_calls or [] -%}{{- call.function | tojson -}}{%- endfor -%}"
    "{{- '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def train(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `VOCABULARY` entries. Lower and upper case are learnt too, as customers write both."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[BOS, END, PAD, SYSTEM, USER, ASSISTANT, TOOL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cased = (variant for text in texts for variant in (text, text.lower(), text.upper()))
    tokenizer.train_from_iterator(cased, trainer)
    # Plain completions begin as chats do.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, TOOL],
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
