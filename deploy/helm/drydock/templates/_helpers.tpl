{{/* Names and pod parts that every component has. Most take a dict: root (the chart's $),
     component, and what else is named there. */}}

{{/* At most `max` characters of `name`; a cut name ends in a hash, so that two names stay different. */}}
{{- define "drydock.short" -}}
{{- if gt (len .name) .max -}}
{{- printf "%s-%s" (.name | trunc (int (sub .max 9)) | trimSuffix "-") (.name | sha256sum | trunc 8) -}}
{{- else -}}
{{- .name -}}
{{- end -}}
{{- end }}

{{/* Short enough for component, ordinal and Kubernetes' own suffixes. Takes $. */}}
{{- define "drydock.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if contains $name .Release.Name }}{{ $full = .Release.Name }}{{ end -}}
{{- include "drydock.short" (dict "name" (default $full .Values.fullnameOverride) "max" 30) -}}
{{- end }}

{{/* A StatefulSet's name is cut at 52: Kubernetes makes a label of it and a hash. root, site. */}}
{{- define "drydock.agentName" -}}
{{- $name := printf "%s-agent-%s" (include "drydock.fullname" .root) .site -}}
{{- include "drydock.short" (dict "name" $name "max" 52) -}}
{{- end }}

{{/* The selector of a component's pods; never changes. root, component. */}}
{{- define "drydock.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .site }}
drydock/site: {{ . | quote }}
{{- end }}
{{- end }}

{{/* root, component, site. */}}
{{- define "drydock.labels" -}}
{{ include "drydock.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* A pod's metadata. Changed settings restart pods. root, component, site. */}}
{{- define "drydock.podMetadata" -}}
labels: {{- merge (include "drydock.labels" . | fromYaml) .root.Values.podLabels | toYaml | nindent 2 }}
annotations:
  {{- with .root.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  checksum/settings: {{ include (print .root.Template.BasePath "/settings-configmap.yaml") .root | sha256sum }}
{{- end }}

{{/* The common part of every pod's spec. root, component, site, settings. */}}
{{- define "drydock.podSpec" -}}
serviceAccountName: {{ include "drydock.fullname" .root }}-{{ .component }}
automountServiceAccountToken: false
# Its variables would be taken for settings: a Service "drydock-gateway" gives DRYDOCK_GATEWAY_PORT.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .settings.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . | quote }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "drydock.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* The common part of every container. root, settings, image: another one, if it has a repository. */}}
{{- define "drydock.container" -}}
{{- $image := .root.Values.image -}}
{{- with .image }}{{ if .repository }}{{ $image = merge (deepCopy .) (pick $image "pullPolicy") }}{{ end }}{{ end -}}
image: {{ if $image.digest -}}
  {{ printf "%s@%s" $image.repository $image.digest | quote }}
{{- else -}}
  {{ printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) | quote }}
{{- end }}
imagePullPolicy: {{ $image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources: {{- toYaml .settings.resources | nindent 2 }}
{{- end }}

{{/* The environment: Kafka from the settings, logins from Secrets. root, component, settings. */}}
{{- define "drydock.env" -}}
{{- $kafka := .root.Values.kafka -}}
- name: DRYDOCK_KAFKA_CLIENT_ID
  value: drydock-{{ .component }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
{{- $secret := required "kafka.sasl.existingSecret is needed by kafka.securityProtocol SASL_*" (default $kafka.sasl.existingSecret .settings.kafkaSecret) }}
- name: DRYDOCK_KAFKA_SASL_USERNAME
  valueFrom: {secretKeyRef: {name: {{ $secret | quote }}, key: {{ $kafka.sasl.usernameKey | quote }}}}
- name: DRYDOCK_KAFKA_SASL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret | quote }}, key: {{ $kafka.sasl.passwordKey | quote }}}}
{{- end }}
{{- with .settings.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Mounts of every container. Takes $. */}}
{{- define "drydock.mounts" -}}
- {name: scratch, mountPath: /tmp}
{{- if hasSuffix "SSL" .Values.kafka.securityProtocol }}
{{- if .Values.kafka.tls.caSecret }}
- {name: kafka-ca, mountPath: /etc/drydock/kafka/ca, readOnly: true}
{{- end }}
{{- if .Values.kafka.tls.clientSecret }}
- {name: kafka-client, mountPath: /etc/drydock/kafka/client, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{/* Their volumes. Takes $. */}}
{{- define "drydock.volumes" -}}
- name: scratch
  emptyDir: {sizeLimit: 256Mi}
{{- if hasSuffix "SSL" .Values.kafka.securityProtocol }}
{{- with .Values.kafka.tls.caSecret }}
- name: kafka-ca
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with .Values.kafka.tls.clientSecret }}
- name: kafka-client
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The volume claim of each pod of a StatefulSet. size, storageClass. */}}
{{- define "drydock.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}

{{/* The probes for startup, liveness, readiness. startupS: limit of the start. */}}
{{- define "drydock.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add .startupS 4) 5 }}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
