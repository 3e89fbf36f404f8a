"""What the integration tests share: real servers."""

import warnings

with warnings.catch_warnings():
    # kafka-python 3.0.12 reads its protocol by a call that Python 3.11 and 3.12 call deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from tests.integration.broker_fixtures import (
        empty_kafka,
        kafka,
        leaky_clients,
        three_brokers,
    )
    from tests.integration.workers import workers

__all__ = ["empty_kafka", "kafka", "leaky_clients", "three_brokers", "workers"]
