"""The API over gRPC: `deepseek.v1.DeepSeek`, health and reflection, in the HTTP server's event loop and on its endpoints."""
