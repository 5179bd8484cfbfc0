"""A run on the Hub, as its config says: `hub_model_id`, `hub_private_repo`, `hub_token`, `hub_revision`."""

import logging
from pathlib import Path

from hf_distill import hub
from hf_distill.config import DistillationConfig

logger = logging.getLogger(__name__)


class Publication:
    """The repository of one run, and the pushes to it.

    Args:
        args: of the run.
    """

    def __init__(self, args: DistillationConfig) -> None:
        self.args = args
        self._unpushed: str | None = None

    @property
    def _name(self) -> str:
        return self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name

    def make_repository(self, token: str | None = None, private: bool | None = None) -> str:
        """Makes the repository if it is not there; see `hub.make_repository`.

        Args:
            token: instead of the config's.
            private: instead of the config's.

        Returns:
            "namespace/name".
        """
        private = self.args.hub_private_repo if private is None else private
        return hub.make_repository(self._name, private=private, token=token or self.args.hub_token)

    def push(
        self,
        folder: str,
        message: str | None = None,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str:
        """Publishes a saved folder; see `hub.push`.

        Args:
            folder: the output folder, or a checkpoint.
            message: of the commit.
            token: instead of the config's.
            revision: instead of the config's.
            private: instead of the config's.

        Returns:
            The URL of the commit.
        """
        return hub.push(
            folder,
            self._name,
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=message or "End of training",
        )

    def push_checkpoint(self, folder: str, step: int) -> None:
        """Publishes a checkpoint with the card of the run. The Hub may be back at the next save: a fault of its own
        ends no training, it is warned of and kept for `finish`."""
        (Path(folder) / "README.md").write_bytes((Path(str(self.args.output_dir)) / "README.md").read_bytes())
        self._unpushed = None
        try:
            self.push(folder, f"Training in progress, step {step}")
        except hub.HubError as error:
            self._unpushed = f"{folder} is saved and not on the Hub: {error}"
            logger.warning(self._unpushed)

    def finish(self) -> None:
        """At the end of the training.

        Raises:
            HubError: the last checkpoint did not get there.
        """
        if self._unpushed:
            raise hub.HubError(self._unpushed)
