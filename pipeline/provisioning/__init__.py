"""Creates and changes the topics of a Kafka cluster as `schemas.topics` defines them."""
