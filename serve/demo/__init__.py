"""The demo model: a tiny Llama, its tokenizer and two LoRA adapters, trained on the spot from `shop.txt`.

`python -m serve.demo` makes them. A tool beside the gateway, not a part of it: nothing here is imported by it.
"""
