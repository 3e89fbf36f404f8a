"""The HTTP front of Kafka: webhooks and events in, durable before the response."""
