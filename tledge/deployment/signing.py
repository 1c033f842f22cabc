"""Sign released files, and tell whether files are signed, so that a pipeline or a device can refuse all others.

Keys and signatures have minisign's format, which its program reads on a device: https://jedisct1.github.io/minisign/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tledge.conversion.sidecar import read_sidecar
from tledge.core.dependencies import require
from tledge.core.errors import ArtefactError, SettingsError
from tledge.core.escaping import visible
from tledge.core.files import sha256_file, write_bytes
from tledge.runs.manifest import read_manifest
from tledge.runs.rundir import open_run, sidecar_of, signature_of


@dataclass(frozen=True)
class SignedFile:
    """A file, where its signature is, and the trusted comment in that."""

    path: Path
    signature: Path
    comment: str


@dataclass(frozen=True)
class VerifiedFile:
    """A file and whether it is signed by the key.

    `verdict` is `missing` where there is no signature. `comment` is the signed one, empty unless the verdict is
    `pass`; anybody who holds the key may have written it, so escape it before it is shown. `reason` says why not.
    """

    path: Path
    verdict: Literal["pass", "fail", "missing"]
    comment: str
    reason: str


def sign(paths: Sequence[Path], key: Path, *, password: str | None = None) -> tuple[SignedFile, ...]:
    """Sign files with a secret key of minisign: each gets a signature `<file>.minisig` beside it.

    The trusted comment holds name and SHA-256 of the file and, of an artefact, recipe and SHA-256 of the model that it
    was made from. Equal files and keys give equal signatures.

    Args:
        paths: files, or runs, of which every artefact is signed.
        key: the secret key, as `minisign -G` writes it.
        password: of the key, if it has one.

    Raises:
        SettingsError: no secret key, another password, or a path that is no file to sign.
        ArtefactError: an artefact is damaged, of another run or half exported, or a run has none.
        RunError: a folder is no run.
        MissingDependencyError: the package `minisign` is not installed.
    """
    files = tuple(_files(paths))
    comments = [_comment(path, model) for path, model in files]
    secret = _secret_key(key, password)
    public = secret.get_public_key()
    signed = []
    for (path, _), comment in zip(files, comments, strict=True):
        signature = secret.sign_file(path, prehash=True, trusted_comment=comment)
        try:
            public.verify_file(path, signature)
        except require("minisign").VerifyError:  # nothing else protects a key without a password from damage
            raise SettingsError(f"expected a secret key, but the two parts of {key} differ; restore it") from None
        write_bytes(signature_of(path), bytes(signature) + b"\n")
        signed.append(SignedFile(path, signature_of(path), comment))
    return tuple(signed)


def needs_password(key: Path) -> bool:
    """Whether a secret key is protected by a password.

    Raises:
        SettingsError: no secret key.
        MissingDependencyError: the package `minisign` is not installed.
    """
    encrypted: bool = _read_key(key, "SecretKey", "a secret key").is_encrypted()
    return encrypted


def verify(paths: Sequence[Path], public_key: Path) -> tuple[VerifiedFile, ...]:
    """Tell whether files are signed by the holder of a key, and unchanged since.

    Args:
        paths: files, or runs, of which every artefact is verified. The signature is `<file>.minisig` beside it.
        public_key: the public key, as `minisign -G` writes it.

    Raises:
        SettingsError: no public key, or a path that is no file.
        ArtefactError: a run has no artefacts.
        RunError: a folder is no run.
        MissingDependencyError: the package `minisign` is not installed.
    """
    minisign = require("minisign")
    files = [path for path, _ in _files(paths)]
    key = _read_key(public_key, "PublicKey", "a public key")
    verified = []
    for path in files:
        signature = signature_of(path)
        if not signature.is_file():
            verified.append(VerifiedFile(path, "missing", "", f"there is no {signature.name}"))
            continue
        try:
            found = minisign.Signature.from_file(signature)
            key.verify_file(path, found)
        except minisign.ParseError as error:
            reason = f"{signature.name} is no signature of minisign, or damaged ({error})"
            verified.append(VerifiedFile(path, "fail", "", reason))
        except minisign.VerifyError as error:
            reason = f"file, signature and key do not belong together, or one was changed ({error})"
            verified.append(VerifiedFile(path, "fail", "", reason))
        else:
            verified.append(VerifiedFile(path, "pass", found.trusted_comment, ""))
    return tuple(verified)


def _read_key(path: Path, kind: Literal["SecretKey", "PublicKey"], wanted: str) -> Any:
    minisign = require("minisign")
    make = "make keys with `minisign -G -s KEY -p PUBLIC_KEY`"
    if not path.is_file():
        raise SettingsError(f"expected {wanted} of minisign, but there is no file {path}; {make}")
    try:
        return getattr(minisign, kind).from_file(path)
    except minisign.Error as error:
        raise SettingsError(f"expected {wanted} of minisign, but {path} is none ({error}); {make}") from None


def _secret_key(path: Path, password: str | None) -> Any:
    """The secret key, decrypted: with minisign's own parameters that takes 1 GiB of memory."""
    key = _read_key(path, "SecretKey", "a secret key")
    if key.is_encrypted():
        if password is None:
            raise SettingsError(f"expected the password of {path}, but got none; pass it")
        try:
            key.decrypt(password)
        except (ValueError, MemoryError) as error:
            reason = str(error) or "it takes more memory than there is"
            raise SettingsError(f"expected the password of {path}, but it cannot be used: {reason}") from None
    return key


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Each file, of a run's artefacts with the SHA-256 of the run's model."""
    for path in paths:
        if path.is_dir():
            run = open_run(path)
            if not run.artefacts():
                raise ArtefactError(
                    f"expected artefacts in {run.exports}, but there are none; run `tledge export {path}`"
                )
            model = read_manifest(run).model_sha256
            yield from ((artefact, model) for artefact in run.artefacts())
        elif not path.is_file() or path.suffix == ".minisig":
            raise SettingsError(f"expected a run, or a file beside its signature, but got {path}; check the path")
        else:
            yield path, None


def _comment(path: Path, model_sha256: str | None) -> str:
    """What is signed with a file: fields with tabs between, as minisign's own comments have them."""
    digest = sha256_file(path)
    fields = [f"file:{_ascii(path.name)}", f"sha256:{digest}"]
    sidecar_path = sidecar_of(path)
    if sidecar_path == path or not sidecar_path.is_file():
        if model_sha256 is not None:
            raise ArtefactError(
                f"expected {sidecar_path.name} beside {path}, but its export was interrupted; export it again"
            )
        return "\t".join(fields)
    sidecar = read_sidecar(sidecar_path)
    if sidecar.sha256 != digest or model_sha256 not in (None, sidecar.source_sha256):
        raise ArtefactError(
            f"expected {path} to be this run's, as its sidecar describes it, but it is another file; export it again"
        )
    return "\t".join([*fields, f"recipe:{_ascii(sidecar.name)}", f"model_sha256:{sidecar.source_sha256}"])


def _ascii(text: str) -> str:
    """Comments are printable ASCII, whatever a file is called."""
    return visible(text).encode("ascii", "backslashreplace").decode()
