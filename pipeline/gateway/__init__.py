"""The HTTP front of Kafka: accepts webhooks and events, durable before the response."""
