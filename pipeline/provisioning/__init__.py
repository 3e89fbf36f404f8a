"""Brings the topics of a Kafka cluster to what `schemas.topics` says."""
