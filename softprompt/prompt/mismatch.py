"""Does a prompt fit a model? Another width cannot work; other weights deserve a warning."""

from __future__ import annotations

import warnings
from collections.abc import Mapping


class PromptModelMismatchWarning(UserWarning):
    """A soft prompt is used with another model than it was trained for."""


def model_facts(model: object) -> dict[str, object]:
    """Describe a model as prompts record it.

    Parameters
    ----------
    model : object
        With `config` and `fingerprint`.

    Returns
    -------
    dict
        What `SoftPrompt.base_model` holds, for `check_prompt_model`.
    """
    config = model.config
    names = ("family", "hidden_size", "vocab_size", "num_layers", "num_attention_heads")
    is_pair = getattr(config, "is_encoder_decoder", False)
    return {
        "name_or_path": str(config.name_or_path),
        **{name: getattr(config, name) for name in names},
        "task_type": "SEQ_2_SEQ_LM" if is_pair else "CAUSAL_LM",
        "fingerprint": model.fingerprint,
    }


def check_prompt_model(
    num_virtual_tokens: int,
    hidden_size: int,
    base_model: Mapping[str, object] | None,
    model: object,
    *,
    stacklevel: int = 3,
) -> None:
    """Compare what is known of a prompt's model with a model.

    Parameters
    ----------
    num_virtual_tokens, hidden_size : int
        Shape of the prompt.
    base_model : mapping, optional
        Facts about the model that the prompt was made for; of its keys `vocab_size`, `family` and
        `fingerprint` are compared. Absent ones and None match anything, and so does any
        `name_or_path`.
    model : object
        With `config.hidden_size`, `config.vocab_size`, `config.family` and `fingerprint`.
    stacklevel : int
        Frames between the warning and the caller to blame.

    Raises
    ------
    ValueError
        If the widths differ.

    Warns
    -----
    PromptModelMismatchWarning
        If vocabulary size, family or fingerprint of the weights differ; one warning names them all.
    """
    config = model.config
    if hidden_size != config.hidden_size:
        raise ValueError(
            f"soft prompt of shape [{num_virtual_tokens}, {hidden_size}]: the model's hidden_size "
            "is "
            f"{config.hidden_size}, expected the same width; the prompt was made for "
            f"{_name(base_model)}"
        )
    _warn_of_other_weights("soft prompt", base_model, model, stacklevel + 1)


def check_prefix_model(
    shape: tuple[int, ...],
    base_model: Mapping[str, object] | None,
    model: object,
    *,
    stacklevel: int = 3,
) -> None:
    """Compare a prefix and what is known of its model with a model.

    Parameters
    ----------
    shape : tuple of int
        Of its keys: layers, virtual tokens, heads, width of a head.
    base_model, model, stacklevel
        See `check_prompt_model`; of `model.config` the sizes of keys and values are compared too.

    Raises
    ------
    ValueError
        If one of those sizes differs.

    Warns
    -----
    PromptModelMismatchWarning
        See `check_prompt_model`.
    """
    names = ("num_layers", "num_kv_heads", "head_dim")
    sizes = dict(zip(names, (shape[0], *shape[2:]), strict=True))
    expected = {name: getattr(model.config, name) for name in names}
    if sizes != expected:
        raise ValueError(
            f"prefix of {sizes}, expected the model's {expected}; it was made for "
            f"{_name(base_model)}"
        )
    _warn_of_other_weights("prefix", base_model, model, stacklevel + 1)


def _warn_of_other_weights(
    kind: str, base_model: Mapping[str, object] | None, model: object, stacklevel: int
) -> None:
    if not base_model:
        return
    config = model.config
    differences = [
        f"{key} {base_model[key]!r}, the model has {getattr(config, key)!r}"
        for key in ("family", "vocab_size")
        if base_model.get(key) is not None and base_model[key] != getattr(config, key)
    ]
    # The fingerprint reads weights: ask for it only where it decides something.
    made_for = base_model.get("fingerprint")
    if made_for is not None and not differences and made_for != model.fingerprint:
        differences.append(
            f"weights of fingerprint {str(made_for)[:12]}, the model has {model.fingerprint[:12]}"
        )
    if differences:
        warnings.warn(
            f"the {kind} was made for {_name(base_model)} with {'; '.join(differences)}. "
            "Its results may be worse than those it was saved with.",
            PromptModelMismatchWarning,
            stacklevel=stacklevel,
        )


def _name(base_model: Mapping[str, object] | None) -> str:
    name = (base_model or {}).get("name_or_path")
    return repr(name) if name else "another model"
