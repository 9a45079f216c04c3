-- The health of a Workspace for Argo CD. Nothing is concluded from a status that is of an older spec, or not there yet.
local health = { status = "Progressing", message = "the workspace is waited for" }

if obj.metadata ~= nil and obj.metadata.deletionTimestamp ~= nil then
  health.message = "the workspace is being removed"
  return health
end

local status = obj.status
if status == nil or status.conditions == nil or status.observedGeneration == nil then
  return health
end
if obj.metadata.generation ~= nil and status.observedGeneration ~= obj.metadata.generation then
  health.message = "the newest spec was not looked at yet"
  return health
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local ready, stalled = conditions["Ready"], conditions["Stalled"]

-- A lost node comes before what its agent said last. Nothing but a person, or the node, changes it.
if ready ~= nil and ready.reason == "NodeLost" then
  health.status = "Degraded"
  health.message = ready.message
elseif stalled ~= nil and stalled.status == "True" then
  health.status = "Degraded"
  health.message = stalled.message
elseif ready ~= nil and ready.status == "True" then
  -- Also what is halted, paused or done, when that was asked for.
  health.status = "Healthy"
  health.message = ready.message
elseif ready ~= nil then
  health.message = ready.message
end
return health
