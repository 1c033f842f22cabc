"""Errors a user can act on. Each message says what was expected, what came and what to do.

Library code raises these; only the command line turns them into exit codes.
"""

from __future__ import annotations


class TledgeError(Exception):
    """Base of every error tledge raises on purpose; the command line exits with 2."""


class DataError(TledgeError):
    """The image folder, or a file in it, is not what tledge can train or check on."""


class WeightsError(TledgeError):
    """Pre-trained weights are missing, truncated, or not VGG16's."""


class RunError(TledgeError):
    """A run directory is missing, incomplete, of another version, or already exists."""


class RecipeError(TledgeError):
    """A recipe is unknown, malformed, or asks for a combination no format offers."""


class ArtefactError(TledgeError):
    """A model file is truncated, unreadable, or does not belong to the run."""


class FixedBatchError(ArtefactError):
    """A model file takes batches of one size only, and another was asked for."""


class SettingsError(TledgeError):
    """An option's value, or a combination of options, makes no sense."""


class MissingDependencyError(TledgeError):
    """A command needs a package that this installation does not have."""


class RemoteError(TledgeError):
    """Another machine cannot be reached, lacks something, or failed at what it was asked to do."""


class VerificationError(TledgeError):
    """A freshly written artefact failed its own verification; the command line exits with 1."""
