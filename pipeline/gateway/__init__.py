"""The HTTP front of both forms: accepts webhooks and events, durable before the response."""
