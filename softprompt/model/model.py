"""`Model`: a frozen language model and everything that can be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt.model import generation, key_values, losses, ranking
from softprompt.model import logits as logits_
from softprompt.model.frozen import FrozenModel
from softprompt.prompt import Prefix

__all__ = ["Model"]


class Model(FrozenModel):
    """A frozen language model. Made by `softprompt.load_model`.

    Copying gives the same object, pickling stores where the model came from and never its weights.

    Attributes
    ----------
    config : ModelConfig
    tokenizer : object or None
    embeddings : array-like of float32, shape (vocab_size, hidden_size)
        In the space of transformers' ``inputs_embeds``.
    weights : dict of ndarray of float32, or of StoredMatrix
        By slot; not to be changed. A matrix that stays in its file gives rows and, with
        ``np.asarray``, all of them as float32.
    weight_bytes : dict of str to int
        Bytes that the weights take, by the type in which they are held.
    """

    def loss_and_grad(self, prompt: object, examples: Sequence) -> Any:
        """Mean negative log-likelihood of the targets, and its gradient in the prompt.

        Parameters
        ----------
        prompt : SoftPrompt, array of shape (num_virtual_tokens, hidden_size), or Prefix
            Or a list of them: several prompts in one pass over the weights.
        examples : list of (input_ids, target_ids) or (input_ids, target_ids, weights)
            Token ids (or texts); a third element gives one weight per target token. For a list of
            prompts: a list of such lists, one for each prompt. With an encoder the prompt and
            `input_ids` go to it, and `target_ids` are the labels as they stand: the decoder reads
            its start token and all but the last of them.

        Returns
        -------
        loss : float
            sum(weight * -log p) / sum(weight) over all target tokens.
        grad : ndarray of float32, shape (num_virtual_tokens, hidden_size)
            Of a Prefix, its keys and values as `Prefix.flattened` has them: shape
            (num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim).
            For a list of prompts: a list of (loss, grad).

        Raises
        ------
        ValueError, TypeError
            A prompt, id, weight or length that cannot be; the message names it.
        """
        return losses.loss(self, prompt, examples, want_grad=True)

    def loss(self, prompt: object, examples: Sequence) -> Any:
        """As `loss_and_grad`, but the loss alone; `prompt` may be None."""
        result = losses.loss(self, prompt, examples, want_grad=False)
        return [loss for loss, _ in result] if isinstance(result, list) else result[0]

    def ranking_loss_and_grad(
        self,
        prompt: object,
        inputs: Sequence,
        choices: Sequence,
        targets: Sequence,
        *,
        sample_weight: object = None,
        length_normalize: bool = False,
    ) -> Any:
        """Cross-entropy over choices: softmax of the choices' log-likelihoods, and its gradient.

        Parameters
        ----------
        prompt : SoftPrompt, array of shape (num_virtual_tokens, hidden_size), or Prefix
            Or a list of them: several prompts in one pass over the weights. `inputs`, `targets`
            and `sample_weight` are then lists of such lists, one for each prompt.
        inputs : list of texts or id lists
        choices : list of texts or id lists
            The same for every input.
        targets : sequence of int
            The right choice of every input.
        sample_weight : array of shape (n,), optional
        length_normalize : bool
            Divide a choice's log-likelihood by its number of tokens.

        Returns
        -------
        loss : float
            sum(w * -log softmax(log-likelihoods)[target]) / sum(w)
        grad : ndarray of float32, shape (num_virtual_tokens, hidden_size)
            Of a Prefix, its keys and values as `Prefix.flattened` has them: shape
            (num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim).
            For a list of prompts: a list of (loss, grad).

        Raises
        ------
        ValueError, TypeError
            A prompt, id, weight or length that cannot be; the message names it.
        """
        return ranking.ranking_loss_and_grad(
            self, prompt, inputs, choices, targets, sample_weight, length_normalize
        )

    def rank(
        self,
        inputs: Sequence,
        choices: Sequence,
        prompt: object = None,
        *,
        length_normalize: bool = False,
    ) -> np.ndarray:
        """Log of the softmax over the choices' log-likelihoods.

        Parameters
        ----------
        inputs : list of texts or id lists
        choices : list of texts or id lists
            The same for every input.
        prompt : SoftPrompt, array, Prefix, or a list of one (or None) per input, optional
        length_normalize : bool
            Divide a choice's log-likelihood by its number of tokens.

        Returns
        -------
        ndarray of float64, shape (n, len(choices))
        """
        return ranking.rank(self, inputs, choices, prompt, length_normalize)

    def log_likelihood(
        self, inputs: Sequence, targets: Sequence, prompt: object = None
    ) -> np.ndarray:
        """Log-likelihood of each target after its input.

        Parameters
        ----------
        inputs, targets : list of texts or id lists
            Texts of `inputs` are encoded with the model's special tokens, `targets` without.
        prompt : SoftPrompt, array, Prefix, or a list of one (or None) per input, optional

        Returns
        -------
        ndarray of float64, shape (n,)
        """
        return losses.log_likelihood(self, inputs, targets, prompt)

    def logits(self, inputs: Sequence, prompt: object = None) -> list[np.ndarray]:
        """Logits after every token of every input.

        Parameters
        ----------
        inputs : list of texts or id lists
            Of a model with an encoder pairs (input, target).
        prompt : SoftPrompt, array, Prefix, or a list of one (or None) per input, optional

        Returns
        -------
        list of ndarray of float32, shape (T_i, vocab_size)
            The prompt's own rows are not among them. With an encoder those that predict the tokens
            of the target.
        """
        return logits_.logits(self, inputs, prompt)

    def prefix(self, prompt: object) -> Prefix:
        """Keys and values that a prompt leaves in every layer: all that a text reads of it.

        Parameters
        ----------
        prompt : SoftPrompt or array of shape (num_virtual_tokens, hidden_size)
            One whose position is "after_bos" gives the keys and values of the beginning-of-text
            token and of the prompt; the text then follows without that token.

        Returns
        -------
        Prefix
            Of the positions 0, 1, ...: texts have to start at the position behind them, as they do
            in transformers and PEFT.
            Where rotary frequencies depend on the length (dynamic, longrope), they are those of
            texts within the original length.

        Raises
        ------
        TypeError, ValueError
            A prompt that is not of the model's width, is longer than its context, or stands after a
            token that the model does not have.
        """
        return key_values.compute_prefix(self, prompt)

    def generate(self, inputs: Sequence, prompt: object = None, **options: Any) -> list:
        """Continue texts. See `softprompt.model.generation.generate` for all options.

        Parameters
        ----------
        inputs : list of texts or id lists
        prompt : SoftPrompt, array, Prefix, or a list of one (or None) per input, optional
            A list answers different tasks in one pass.
        **options
            ``max_new_tokens=50, temperature=0.0, top_k=None, top_p=None, seed=None, stop=None,
            stream=None, return_ids=False, num_beams=1, length_penalty=1.0, early_stopping=False,
            num_return_sequences=1``

        Returns
        -------
        list of str
            The new texts (id lists with ``return_ids=True``), `num_return_sequences` per input.
        """
        return generation.generate(self, inputs, prompt, **options)
