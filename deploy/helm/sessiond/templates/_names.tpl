{{- define "sessiond.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "sessiond.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "sessiond.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sessiond.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sessiond.selector" -}}
app.kubernetes.io/name: {{ include "sessiond.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: service
{{- end -}}

{{- define "sessiond.labels" -}}
app.kubernetes.io/name: {{ include "sessiond.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sessiond.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "sessiond.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sessiond.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "sessiond.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "sessiond.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* Health, asked by the kubelet itself, or by the image's own probe where TLS is on: the kubelet speaks no TLS. */ -}}
{{- define "sessiond.health" -}}
{{- if .Values.tls.secret -}}
exec:
  command: [sessiond, healthcheck, --timeout, "2"]
{{- else -}}
grpc:
  port: 50051
{{- end -}}
{{- end -}}

{{- /* Variables that name one Postgres, or several. With `.owner` those of the migration, if it has a role of its own. */ -}}
{{- define "sessiond.databases" -}}
{{- $values := .root.Values -}}
{{- $own := ternary $values.migration.secret "" .owner -}}
{{- if $values.databases.secret -}}
- name: SESSIOND_DATABASES
  valueFrom:
    secretKeyRef:
      name: {{ default $values.databases.secret $own }}
      key: {{ ternary $values.migration.key $values.databases.key (ne $own "") }}
- name: SESSIOND_DEFAULT_DATABASE
  value: {{ $values.databases.default }}
{{- else -}}
- name: SESSIOND_POSTGRES_DSN
  valueFrom:
    secretKeyRef:
      name: {{ default $values.postgres.secret $own }}
      key: {{ ternary $values.migration.key $values.postgres.key (ne $own "") }}
{{- end -}}
{{- end -}}
