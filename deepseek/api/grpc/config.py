"""Where and how gRPC is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator


class GrpcConfig(BaseModel):
    """The section `grpc` of the configuration.

    host: None takes the HTTP server's. certificate, key: PEM files; both or neither. plaintext: serve without TLS beyond
    loopback, because something before it (a mesh, a proxy) encrypts; else keys would cross a network in the clear.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: Annotated[int, Field(ge=0, le=65535, description="0 takes a free one.")]
    host: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    plaintext: bool = False
    max_concurrent_streams: Annotated[int, Field(ge=1, description="Of each connection.")] = 256
    max_concurrent_calls: Annotated[int, Field(ge=1, description="With a key; one more is RESOURCE_EXHAUSTED.")] = 4096

    @model_validator(mode="after")
    def _both_or_neither(self) -> GrpcConfig:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self
