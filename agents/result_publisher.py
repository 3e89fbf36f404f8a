"""Publishes the results of an executor, and repeats those that Kafka does not confirm."""

import time
from typing import Final

from agents.executor import Executor
from agents.result_producer import NotConfirmedError
from agents.site_context import SiteContext
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key


class ResultPublisher:
    """Publishes the results of one partition."""

    def __init__(self, site: SiteContext, partition: int) -> None:
        self.waiting = 0
        self._site = site
        self._keys: Final = {key.SITE: site.name, key.PARTITION: partition}
        self._source = f"/drydock/executor/{site.name}"
        self._backoff = Backoff(BROKER)
        self._publish_at = 0.0

    def publish(self, executor: Executor) -> None:
        """Publish the executor's results, then mark, count and log them.

        If Kafka does not confirm them, they stay, and nothing is published for up to 10 s.
        `waiting` is the number of results that are not confirmed.
        """
        results = executor.results() if time.monotonic() >= self._publish_at else []
        self.waiting = len(results) or self.waiting
        if not results:
            return
        try:
            self._site.result_producer.publish_results(item.event(self._source) for item in results)
        except NotConfirmedError as error:
            self._site.log.warning(
                "results not confirmed", **self._keys, **{key.DETAIL: str(error)}
            )
            self._publish_at = time.monotonic() + self._backoff.next_delay_s()
            return
        self._backoff.reset()
        executor.mark_published(results)
        self.waiting = 0
        for item in results:
            self._site.metrics.count_result(item.result.outcome)
            self._site.log.info(
                "result",
                **{
                    key.JOB_ID: item.result.job_id,
                    key.UDID: item.result.udid,
                    key.SITE: self._site.name,
                    key.ATTEMPT: item.result.attempt,
                    key.OUTCOME: item.result.outcome.value,
                    key.ERROR_CODE: item.result.error_code and item.result.error_code.value,
                },
            )
