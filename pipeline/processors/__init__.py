"""The fleet's shell: Kafka and Faust around the core. Imports state and decide."""
