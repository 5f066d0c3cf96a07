"""Writes a small random model in the form of Hugging Face: a Qwen3 of two layers over the bytes.

Usage: model.py DIRECTORY. Runs in a peer's environment, offline. The token of a byte is its value; 256 ends a text.
"""

import json
import sys
from pathlib import Path

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 512
HIDDEN, INNER, LAYERS, HEADS, KEY_HEADS, HEAD = 64, 128, 2, 4, 2, 16
END, PADDING = 256, 257


def byte_letters():
    """The letter that byte-level tokenizers write for each byte: itself where it shows, else one above 255."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters.update((byte, chr(256 + at)) for at, byte in enumerate(hidden))
    return letters


def write_tokenizer(directory):
    vocabulary = {letter: byte for byte, letter in byte_letters().items()}
    vocabulary["<|end|>"], vocabulary["<|padding|>"] = END, PADDING
    vocabulary.update((f"<|unused{token}|>", token) for token in range(PADDING + 1, VOCABULARY))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert tokenizer.encode("Ab é").ids == list("Ab é".encode()), "a byte is not its own token"
    tokenizer.save(str(directory / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|padding|>",
        "model_max_length": 2048,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(described))


def write_config(directory):
    described = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,
        "dtype": "float32",
        "eos_token_id": END,
        "pad_token_id": PADDING,
    }
    (directory / "config.json").write_text(json.dumps(described, indent=1))


def write_weights(directory):
    random = numpy.random.default_rng(7)

    def matrix(rows, columns, scale=None):
        scale = columns**-0.5 if scale is None else scale
        return (random.standard_normal((rows, columns)) * scale).astype(numpy.float32)

    def ones(size):
        return numpy.ones(size, numpy.float32)

    weights = {
        "model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN, 1.0),
        "model.norm.weight": ones(HIDDEN),
        "lm_head.weight": matrix(VOCABULARY, HIDDEN),
    }
    for layer in range(LAYERS):
        here = f"model.layers.{layer}."
        attention, inner = f"{here}self_attn.", f"{here}mlp."
        weights[f"{here}input_layernorm.weight"] = ones(HIDDEN)
        weights[f"{here}post_attention_layernorm.weight"] = ones(HIDDEN)
        weights[f"{attention}q_proj.weight"] = matrix(HEADS * HEAD, HIDDEN)
        weights[f"{attention}k_proj.weight"] = matrix(KEY_HEADS * HEAD, HIDDEN)
        weights[f"{attention}v_proj.weight"] = matrix(KEY_HEADS * HEAD, HIDDEN)
        weights[f"{attention}o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD)
        weights[f"{attention}q_norm.weight"] = ones(HEAD)
        weights[f"{attention}k_norm.weight"] = ones(HEAD)
        weights[f"{inner}gate_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{inner}up_proj.weight"] = matrix(INNER, HIDDEN)
        weights[f"{inner}down_proj.weight"] = matrix(HIDDEN, INNER)
    save_file(weights, str(directory / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    home = Path(sys.argv[1])
    home.mkdir(parents=True, exist_ok=True)
    write_tokenizer(home)
    write_config(home)
    write_weights(home)
