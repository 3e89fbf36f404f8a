"""The Kafka side of Drydock, on Faust: makes the output of shards durable, then commits."""
