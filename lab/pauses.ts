/** Times that no user sets. Tests set shorter ones, so that they do not wait. */
export interface Pauses {
  /** Before the first, second and third automatic restart. There is no fourth within ten minutes. */
  restartsMs: readonly number[];
  /** Between two questions to a gateway. With its deadline of 2 s a status is at most 7 s old. */
  gatewayPollMs: number;
  /** A warm process continues at once. One that reports nothing for this long is stopped or stuck, and is given up. */
  firstReportMs: number;
  /** Deadline of the first answer of a JupyterLab that is recovered. */
  recoveryProbeMs: number;
  /** From a start to the compression of assets. By then the page is open, and a first cell has run. */
  compressAfterMs: number;
  /**
   * A client that sends nothing of its request's body to JupyterLab for this long is disconnected; JupyterLab itself may be
   * slow. A transfer in either direction that moves nothing for this long does not count as work.
   */
  bodyIdleS: number;
}

export const PAUSES: Pauses = {
  restartsMs: [0, 500, 2000],
  gatewayPollMs: 5000,
  firstReportMs: 3000,
  recoveryProbeMs: 5000,
  compressAfterMs: 30_000,
  bodyIdleS: 60,
};
