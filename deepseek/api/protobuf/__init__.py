"""Protobuf beside JSON: `deepseek.v1`, derived from the pydantic models that the JSON dialects check and describe."""
