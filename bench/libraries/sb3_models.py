"""sb3-contrib: RecurrentPPO on CartPole without velocities, as it is and with `reset=`."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.ppo_recurrent import MlpLstmPolicy
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

import fusedrnn
from bench.libraries.subject import SEED, Subject, Trial, replace_if

ENVIRONMENTS, STEPS = 8, 128


class FusedLstmPolicy(MlpLstmPolicy):
    """fusedrnn's layers, and episodes that start within a sequence without a loop over steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        fusedrnn.replace(self)

    @staticmethod
    def _process_sequence(
        features: Tensor,
        lstm_states: tuple[Tensor, Tensor],
        episode_starts: Tensor,
        lstm: fusedrnn.LSTM,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        n_seq = lstm_states[0].shape[1]
        sequence = features.reshape(n_seq, -1, lstm.input_size).swapaxes(0, 1)
        reset = episode_starts.reshape(n_seq, -1).swapaxes(0, 1) != 0
        output, lstm_states = lstm(sequence, lstm_states, reset=reset)
        return output.swapaxes(0, 1).flatten(0, 1), lstm_states


def masked_cartpole() -> gymnasium.Env:
    """CartPole whose velocities are hidden: a policy needs memory."""
    env = gymnasium.make("CartPole-v1")
    seen = [0, 2]
    space = gymnasium.spaces.Box(
        env.observation_space.low[seen], env.observation_space.high[seen], dtype="float32"
    )
    return gymnasium.wrappers.TransformObservation(env, lambda observed: observed[seen], space)


def make_model(policy: type[MlpLstmPolicy], hidden_size: int) -> RecurrentPPO:
    return RecurrentPPO(
        policy,
        make_vec_env(masked_cartpole, ENVIRONMENTS, seed=SEED),
        n_steps=STEPS,
        n_epochs=1,
        seed=SEED,
        device="cpu",
        policy_kwargs={"lstm_hidden_size": hidden_size},
    )


def _build(fused: bool, hidden_size: int, reset: bool) -> Trial:
    model = make_model(FusedLstmPolicy if fused and reset else MlpLstmPolicy, hidden_size)
    policy = model.policy
    replace_if(fused and not reset, policy)
    # What `learn` does before its first update: every environment's steps with the policy as it is.
    _, callback = model._setup_learn(STEPS * ENVIRONMENTS)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)
    observed = torch.as_tensor(model._last_obs)
    starts = torch.zeros(ENVIRONMENTS)

    def infer() -> Tensor:
        """One step of all environments while a rollout is collected."""
        policy.set_training_mode(False)
        with torch.no_grad():
            _, values, log_prob, _ = policy(observed, model._last_lstm_states, starts, True)
        return torch.cat([values.flatten(), log_prob])

    def train() -> Tensor:
        """The update: one epoch over the rollout, in minibatches."""
        model.train()
        return torch.tensor(model.logger.name_to_value["train/loss"])

    return Trial(policy, infer, train)


SUBJECTS = [
    Subject(
        "sb3-contrib",
        f"RecurrentPPO, {ENVIRONMENTS} environments, {STEPS} steps, minibatches of 128, "
        f"{hidden_size} units",
        change,
        ("lstm_actor", "lstm_critic"),
        partial(_build, hidden_size=hidden_size, reset=change == "reset="),
    )
    for hidden_size in (64, 256)
    for change in ("replace", "reset=")
]
